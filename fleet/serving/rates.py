"""Token buckets: so many requests at once, so many a minute. Bounded in memory. Pure."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CLIENTS = 10_000


class Buckets:
    """One bucket a client."""

    def __init__(
        self, *, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = per_minute / 60.0
        self._burst = float(burst)
        self._clock = clock
        self._full: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Client -> (what was left, when), the longest unseen first."""

    def take(self, client: str) -> float:
        """Take one; 0.0 where there was one, else seconds until there will be."""
        now = self._clock()
        left, seen = self._full.get(client, (self._burst, now))
        left = min(self._burst, left + (now - seen) * self._rate)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self._rate
        self._full[client] = (left - 1.0 if wait_s == 0.0 else left, now)
        self._full.move_to_end(client)
        while len(self._full) > MAX_CLIENTS:
            self._full.popitem(last=False)
        return wait_s
