"""What a server tells the page of its traffic: a row a model. Data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficRow:
    """Requests of one model since the server started."""

    model: str
    """Registry id."""
    share: float | None
    """Of its line's requests that the split sends here, 0 to 1; None where nothing is split."""
    requests: int
    errors: int
    tokens: int
    p50_ms: float | None
    p99_ms: float | None


TrafficSource = Callable[[], Sequence[TrafficRow]]
