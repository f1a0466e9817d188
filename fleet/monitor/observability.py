"""A launch that looks at itself: alerts to people, metrics to Ray's exporter. Lives in the driver.

Looking must never end a launch: a webhook that is down or an exporter that Ray refuses is an event
of the ledger, and the launch goes on.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from fleet.alerts import AlertConfig, Observation, Watchman, channels_from_environment
from fleet.errors import FleetError
from fleet.ledger.reader import LedgerReader
from fleet.settings import LaunchSettings
from fleet.workers.worker_ledger import LedgerClient

if TYPE_CHECKING:
    from fleet.metrics import Exporter


class Observability:
    """One for a driver; `look` is called by its loop as often as it likes."""

    def __init__(self, settings: LaunchSettings, ledger: LedgerClient) -> None:
        paths = settings.paths
        channels = channels_from_environment(
            paths.run_id,
            file=paths.alerts,
            say=lambda text: print(f"alert {text}", file=sys.stderr),  # noqa: T201
            complain=lambda text: ledger.event("warning", "alerts", text),
        )
        self._watchman = Watchman(ledger, channels, settings.alerts or AlertConfig())
        self._exporter = _exporter(ledger)
        self._seen: Observation | None = None
        self._ledger = ledger
        self._trouble = ""
        """Of the newest look that failed: told once, not at every look."""

    def look(self, reader: LedgerReader, *, now: bool = False) -> None:
        """Looks if it is time to, or in any case."""
        try:
            seen = self._watchman.look(reader, now=now)
            if seen is not None:
                self._seen = seen
                if self._exporter is not None:
                    self._exporter.export(seen)
        except FleetError:
            raise  # the ledger itself: that is the launch's to handle
        except Exception as error:  # noqa: BLE001 - recorded; the launch goes on
            text = f"{type(error).__name__}: {error}"
            if text != self._trouble:
                self._trouble = text
                self._ledger.event("warning", "alerts", f"a look at the launch failed: {text}")

    def close(self) -> None:
        """Delivers what is on its way; on a cluster the last metrics say that this one is over."""
        if self._exporter is not None and self._seen is not None:
            self._exporter.export(replace(self._seen, over=True))
        self._watchman.close()


def _exporter(ledger: LedgerClient) -> Exporter | None:
    from fleet.metrics import Exporter

    try:
        return Exporter()
    except (RuntimeError, ValueError) as error:
        ledger.event("warning", "metrics", f"no metrics are exported: {error}")
        return None
