"""Who waits for a row, and whose prompts are read next, in one prefill.

`join` and `len` may come from any thread, everything else from the engine's. It knows neither rows
nor models.
"""

from __future__ import annotations

from collections import deque

from bem.engine.limits import Limits
from bem.engine.request import Ticket


class Line:
    """First come, first read, as many together as one prefill may hold."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inbox: deque[Ticket] = deque()
        """Filled from any thread, emptied by the engine's."""
        self._waiting: deque[Ticket] = deque()
        self._held = 0
        """Steps that those who wait were held."""

    def __len__(self) -> int:
        return len(self._inbox) + len(self._waiting)

    def join(self, ticket: Ticket) -> None:
        """Wait here from now on."""
        self._inbox.append(ticket)

    def drop(self, now: float) -> list[Ticket]:
        """Those who need no answer any more; they wait here no longer."""
        while self._inbox:
            self._waiting.append(self._inbox.popleft())
        gone = [ticket for ticket in self._waiting if ticket.gone(now) is not None]
        for ticket in gone:
            self._waiting.remove(ticket)
        return gone

    def call(self, running: int) -> list[Ticket]:
        """Whose prompts are read now, where so many answers are in progress."""
        if not self._waiting:
            self._held = 0
            return []
        few = running >= 2 * len(self._waiting)
        if few and self._held < self._limits.hold_steps:
            self._held += 1
            return []
        free = self._limits.rows - running
        if not free:  # they were held long enough when a row is free
            return []
        self._held = 0
        chosen: list[Ticket] = []
        width = 0
        while self._waiting and len(chosen) < free:
            wide = max(width, len(self._waiting[0].request.prompt_ids))
            if chosen and wide * (len(chosen) + 1) > self._limits.prefill_tokens:
                break
            width = wide
            chosen.append(self._waiting.popleft())
        return chosen
