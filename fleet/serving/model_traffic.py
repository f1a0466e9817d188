"""What each model answered since the process started, for the page: a row a model.

Prometheus has the figures of the whole server (`metrics`); models come and go, so theirs are no
labels there. Knows no model and no HTTP.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fleet.page.traffic import TrafficRow
from fleet.serving.traffic import Table

Outcome = Literal["answered", "failed", "left"]
"""left: the client went before its answer was whole."""
KEPT = 1024
"""Durations of a model: the percentiles are those of its latest answers."""
MOST = 256
"""Models; the one asked longest ago gives way."""


@dataclass(kw_only=True, slots=True)
class _Tally:
    requests: int = 0
    errors: int = 0
    tokens: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))


class ModelTraffic:
    """Written on the event loop, read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[str, _Tally] = OrderedDict()

    def add(self, model: str, outcome: Outcome, *, tokens: int, seconds: float) -> None:
        """One request is over. Only whole answers have a duration."""
        with self._lock:
            tally = self._models.setdefault(model, _Tally())
            self._models.move_to_end(model)
            tally.requests += 1
            tally.errors += outcome == "failed"
            tally.tokens += tokens
            if outcome == "answered":
                tally.seconds.append(seconds)
            while len(self._models) > MOST:
                self._models.popitem(last=False)

    def rows(self, table: Table) -> Sequence[TrafficRow]:
        """Every model that was asked or is served, with its share of a line that is split."""
        shares: dict[str, float] = {}
        for aliases in table.lines.values():
            if {"champion", "canary"} <= aliases.keys():
                shares[aliases["champion"]] = 1 - table.canary_share
                shares[aliases["canary"]] = table.canary_share
        with self._lock:
            tallies = {
                model: (tally.requests, tally.errors, tally.tokens, tuple(tally.seconds))
                for model, tally in self._models.items()
            }
        rows = []
        for model in sorted(tallies.keys() | table.ids.keys()):
            requests, errors, tokens, seconds = tallies.get(model, (0, 0, 0, ()))
            p50, p99 = (
                (float(value) * 1000 for value in np.quantile(seconds, (0.5, 0.99)))
                if seconds
                else (None, None)
            )
            rows.append(
                TrafficRow(
                    model=model,
                    share=shares.get(model),
                    requests=requests,
                    errors=errors,
                    tokens=tokens,
                    p50_ms=p50,
                    p99_ms=p99,
                )
            )
        return rows
