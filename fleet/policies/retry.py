"""What becomes of a run whose attempt ended, and of a lease whose holder is silent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a run did not end in DONE."""

    ERROR = "error"
    NONFINITE = "nonfinite"
    OOM = "oom"
    WORKER_DIED = "worker_died"
    PREEMPTED = "preempted"
    STOPPED = "stopped"
    DRIVER_GONE = "driver_gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryDecision:
    """Whether a pack goes back to the queue."""

    again: bool
    counts: bool
    """Whether the attempt is charged to the retry budget."""
    reason: str


def retry(cause: Cause, tries: int, *, limit: int) -> RetryDecision:
    """What to do after attempt number `tries` ended by `cause`.

    An exception from the mission's own code is deterministic here (fixed seeds, one thread), so
    trying again would only repeat it; a dead worker is tried again within the limit; preemption
    never uses up the budget, and neither does a driver that is gone.
    """
    if cause is Cause.PREEMPTED:
        return RetryDecision(again=True, counts=False, reason="preempted, not counted")
    if cause is Cause.DRIVER_GONE:
        return RetryDecision(again=True, counts=False, reason="resumed, not counted")
    if cause is Cause.WORKER_DIED:
        if tries < limit:
            return RetryDecision(again=True, counts=True, reason=f"attempt {tries} of {limit} died")
        return RetryDecision(again=False, counts=True, reason=f"the worker died {tries} times")
    if cause is Cause.OOM:
        # A fresh process may fit where one that had worked for long did not; a second may not.
        again = tries < min(limit, 2)
        reason = "out of memory, once more" if again else f"out of memory {tries} times"
        return RetryDecision(again=again, counts=True, reason=reason)
    if cause is Cause.STOPPED:
        return RetryDecision(again=False, counts=False, reason="told to stop")
    return RetryDecision(again=False, counts=True, reason="would fail the same way again")


class LeaseVerdict(StrEnum):
    """What the silence of a lease's holder means."""

    ALIVE = "alive"
    STALE = "stale"
    LOST = "lost"


def judge_lease(silent_s: float, *, stale_after_s: float) -> LeaseVerdict:
    """STALE after T without a heartbeat, LOST (to be replaced) after 2T."""
    if silent_s < stale_after_s:
        return LeaseVerdict.ALIVE
    return LeaseVerdict.STALE if silent_s < 2 * stale_after_s else LeaseVerdict.LOST
