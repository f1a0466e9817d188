"""Tells when the error level of a served model has changed: ADWIN over right and wrong answers.

Bifet and Gavalda (2007), "Learning from time-changing data with adaptive windowing", as `river`
implements it. It looks at answers alone and knows neither prompts nor parameters; what follows
from a change is its owner's to decide.
"""

from __future__ import annotations

from collections.abc import Iterable

DELTA = 0.002
"""Bound on the chance of a false alarm at each cut that is tried."""


class DriftMonitor:
    """Watches one stream of answers."""

    def __init__(self, *, delta: float = DELTA) -> None:
        """
        Args:
            delta: river's `ADWIN(delta)`, in (0, 1).
        """
        from river.drift import ADWIN  # here: its import costs more than the rest of this package

        self._adwin = ADWIN(delta=delta)

    def update(self, wrong: bool) -> bool:
        """Takes the next answer in; True when the level of errors has changed with it."""
        self._adwin.update(float(wrong))
        return bool(self._adwin.drift_detected)


def drift_points(hits: Iterable[bool], *, delta: float = DELTA) -> list[int]:
    """Number of answers after which a change was told, for a whole stream.

    Args:
        hits: right (True) or wrong, in the order of serving.
    """
    monitor = DriftMonitor(delta=delta)
    return [at for at, hit in enumerate(hits, start=1) if monitor.update(not hit)]
