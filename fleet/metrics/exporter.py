"""Hands the metrics of the catalog to Ray, which exports them on every node's metrics port.

That port is served without the token (Ray's design): nothing here may be a secret.
"""

from __future__ import annotations

from typing import Any

from fleet.alerts.observe import Observation
from fleet.metrics.catalog import METRICS, values_of


class Exporter:
    """Lives in the driver, for as long as Ray is up."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        makers: dict[str, Any] = {"counter": Counter, "gauge": Gauge}
        self._handles = {
            metric.name: makers[metric.kind](
                metric.name, description=metric.help, tag_keys=("run_id", *metric.labels)
            )
            for metric in METRICS
        }
        self._counted: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def export(self, seen: Observation) -> None:
        """Brings every metric up to date."""
        for metric in METRICS:
            handle = self._handles[metric.name]
            for labels, value in values_of(metric, seen):
                if metric.kind == "gauge":
                    handle.set(value, tags=labels)
                    continue
                key = (metric.name, tuple(sorted(labels.items())))
                before = self._counted.get(key)
                if before is None:
                    # A counter that is first seen as 1 never fires `increase()`: it starts at 0,
                    # which `inc` refuses to record.
                    handle._record(0.0, tags=labels)
                if value > (before or 0.0):
                    handle.inc(value - (before or 0.0), tags=labels)
                self._counted[key] = max(value, before or 0.0)
