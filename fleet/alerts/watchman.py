"""Looks every few seconds inside a launch, tells people, and leaves what fires in the ledger.

Readers (the table, the page, `fleet.py alerts`) find it there: events of level `alert`, and the
fact `alerts` with what fires now.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from fleet.alerts.channels import Channels, line
from fleet.alerts.config import AlertConfig
from fleet.alerts.observe import Observation, observe
from fleet.alerts.track import Alert, Tracker
from fleet.ledger.reader import LedgerReader

EVERY_S = 5.0


class LedgerPort(Protocol):
    """What the watchman writes through."""

    def call(self, method: str, *arguments: Any) -> Any: ...


class Watchman:
    """One for a launch; `look` is called by the driver's loop as often as it likes."""

    def __init__(
        self,
        ledger: LedgerPort,
        channels: Channels,
        config: AlertConfig,
        *,
        every_s: float = EVERY_S,
    ) -> None:
        self._ledger = ledger
        self._channels = channels
        self._tracker = Tracker(config)
        self._every_s = every_s
        self._looked = float("-inf")

    def look(self, reader: LedgerReader, *, now: bool = False) -> Observation | None:
        """Looks if it is time to, or in any case; returns what was seen."""
        if not now and time.monotonic() - self._looked < self._every_s:
            return None
        self._looked = time.monotonic()
        seen = observe(reader, alive=True, now=time.time())
        changed = self._tracker.look(seen)
        if changed:
            for alert in changed:
                self._ledger.call("event", "alert", alert.subject, line(alert))
            firing = [alert.to_dict() for alert in self._tracker.firing]
            self._ledger.call("set_meta", "alerts", firing)
            self._channels.send(changed)
        return seen

    def close(self) -> None:
        """Delivers what is on its way."""
        self._channels.close()


def look_once(reader: LedgerReader, config: AlertConfig, *, alive: bool) -> tuple[Alert, ...]:
    """What would fire now, for a reader of any run."""
    tracker = Tracker(config)
    tracker.look(observe(reader, alive=alive, now=time.time()))
    return tracker.firing
