"""The states of a run and the legal moves between them. Pure: no clock, no storage, no Ray.

PLANNED -> LEASED -> RUNNING -> DONE
   ^         |          |-----> FAILED
   |         |          |-----> PREEMPTED --.
   |         |          `-----> STALE ------|
   `---------'<-----------------------------'      CANCELLED from anywhere before the end
"""

from __future__ import annotations

from enum import StrEnum

from fleet.errors import IllegalMoveError


class RunState(StrEnum):
    """Where a run stands."""

    PLANNED = "PLANNED"
    LEASED = "LEASED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    PREEMPTED = "PREEMPTED"
    STALE = "STALE"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """True when the fleet does no more work on the run unless a user orders it."""
        return self in _TERMINAL

    @property
    def is_held(self) -> bool:
        """True while a worker holds the run's lease."""
        return self in _HELD


_TERMINAL = frozenset({RunState.DONE, RunState.FAILED, RunState.CANCELLED})
_HELD = frozenset({RunState.LEASED, RunState.RUNNING, RunState.STALE})

MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.PLANNED: frozenset({RunState.LEASED, RunState.FAILED, RunState.CANCELLED}),
    RunState.LEASED: frozenset(
        {
            RunState.RUNNING,
            RunState.PLANNED,
            RunState.FAILED,
            RunState.PREEMPTED,
            RunState.STALE,
            RunState.CANCELLED,
        }
    ),
    RunState.RUNNING: frozenset(
        {
            RunState.DONE,
            RunState.PLANNED,
            RunState.FAILED,
            RunState.PREEMPTED,
            RunState.STALE,
            RunState.CANCELLED,
        }
    ),
    RunState.PREEMPTED: frozenset({RunState.PLANNED, RunState.FAILED, RunState.CANCELLED}),
    # A worker that was only slow comes back to RUNNING; a dead one's runs go back to the queue.
    RunState.STALE: frozenset(
        {RunState.RUNNING, RunState.PLANNED, RunState.FAILED, RunState.CANCELLED}
    ),
    # Out of these two only by a user's order (retry, resume).
    RunState.FAILED: frozenset({RunState.PLANNED}),
    RunState.CANCELLED: frozenset({RunState.PLANNED}),
    RunState.DONE: frozenset(),
}
"""From -> where it may go."""


def check_move(run: str, before: RunState, after: RunState) -> None:
    """Refuses a move that is not in the table.

    Raises:
        IllegalMoveError: names the run, both states and the legal ones.
    """
    if after not in MOVES[before]:
        legal = ", ".join(sorted(MOVES[before])) or "none"
        raise IllegalMoveError(f"Run {run}: {before} -> {after} is not legal. Legal: {legal}.")
