"""Who works on which pack: attempts of workers, their leases, and how both end.

Statements only, each call inside a transaction of the writer; when a silence is too long is
decided in `fleet.policies`. Knows no process and no Ray.
"""

from __future__ import annotations

import sqlite3

from fleet.errors import LedgerError
from fleet.ledger.records import Lease, LostAttempt
from fleet.ledger.transitions import Transitions
from fleet.policies import Cause, LeaseVerdict, judge_lease
from fleet.states import RunState

NewAttempt = tuple[str, str, str, int, str, int, float | None]
"""(attempt, mission, job, rank, host, pid, start of the process)."""


def begin_attempt(cx: sqlite3.Connection, inside: Transitions, row: NewAttempt, now: float) -> None:
    """A worker reports for work; what its dead predecessor of the same rank held goes back."""
    attempt, mission, job, rank, host, pid, process_started = row
    if inside.one("SELECT 1 FROM attempts WHERE attempt = ?", attempt):
        return
    for (older,) in cx.execute(
        "SELECT attempt FROM attempts WHERE job = ? AND rank = ? AND ended_at IS NULL",
        (job, rank),
    ).fetchall():
        inside.end_attempt(older, Cause.WORKER_DIED, "the worker process died")
    cx.execute(
        "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?)",
        (attempt, mission, job, rank, host, pid, now, now, process_started),
    )


def heartbeat(cx: sqlite3.Connection, inside: Transitions, attempt: str, now: float) -> bool:
    """The attempt is alive. Returns whether it should stop."""
    mission, ended = _of(inside, attempt)
    if ended is not None:
        return True
    cx.execute("UPDATE attempts SET seen_at = ? WHERE attempt = ?", (now, attempt))
    for (run,) in inside.held_runs(attempt, RunState.STALE):
        inside.move(run, RunState.RUNNING, "heard of again", attempt)
    return inside.stopping(mission)


def lease(cx: sqlite3.Connection, inside: Transitions, attempt: str, now: float) -> Lease | None:
    """The next pack for this attempt; the one that it still holds, if any; or None."""
    mission, ended = _of(inside, attempt)
    if ended is not None or inside.stopping(mission):
        return None
    held = inside.one("SELECT pack FROM packs WHERE owner = ? AND ended_at IS NULL", attempt)
    if held is not None:
        return inside.lease_of(held[0])
    free = inside.one(
        "SELECT pack FROM packs WHERE mission = ? AND owner IS NULL AND ended_at IS NULL"
        " ORDER BY position LIMIT 1",
        mission,
    )
    if free is None:
        return None
    cx.execute(
        "UPDATE packs SET owner = ?, tries = tries + 1, leased_at = ? WHERE pack = ?",
        (attempt, now, free[0]),
    )
    found = inside.lease_of(free[0])
    for run in found.missing:
        inside.move(run, RunState.LEASED, "", attempt)
    return found


def end_pack(
    cx: sqlite3.Connection, inside: Transitions, attempt: str, pack: str, now: float
) -> None:
    """The holder is done with the pack, whatever became of its runs."""
    if inside.need("SELECT ended_at FROM packs WHERE pack = ?", pack)[0] is not None:
        return
    inside.check_owner(attempt, pack)
    open_runs = [run for run, state in inside.states(pack) if not state.is_terminal]
    if open_runs:
        raise LedgerError(f"Pack {pack} ends with open runs: {', '.join(open_runs)}.")
    cx.execute("UPDATE packs SET ended_at = ? WHERE pack = ?", (now, pack))


def end_job(
    cx: sqlite3.Connection, inside: Transitions, job: str, cause: Cause, reason: str
) -> None:
    """A worker group is gone: every attempt of it that did not say good-bye has died."""
    for (attempt,) in cx.execute(
        "SELECT attempt FROM attempts WHERE job = ? AND ended_at IS NULL", (job,)
    ).fetchall():
        inside.end_attempt(attempt, cause, reason)


def sweep(
    cx: sqlite3.Connection, inside: Transitions, now: float, *, stale_after_s: float
) -> list[LostAttempt]:
    """Marks the runs of silent workers STALE, then takes them away; returns who lost them."""
    lost: list[LostAttempt] = []
    for attempt, seen, host, pid, started in cx.execute(
        "SELECT attempt, seen_at, host, pid, process_started FROM attempts WHERE ended_at IS NULL"
    ).fetchall():
        verdict = judge_lease(now - seen, stale_after_s=stale_after_s)
        text = f"silent for {now - seen:.0f} s"
        if verdict is LeaseVerdict.STALE:
            for (run,) in inside.held_runs(attempt, RunState.RUNNING):
                inside.move(run, RunState.STALE, text, attempt)
                inside.event("warning", run, f"its worker is {text}")
        elif verdict is LeaseVerdict.LOST:
            inside.end_attempt(attempt, Cause.WORKER_DIED, f"the worker was {text}")
            lost.append(
                LostAttempt(attempt=attempt, host=host, pid=pid, process_started=started, text=text)
            )
    return lost


def _of(inside: Transitions, attempt: str) -> tuple[str, float | None]:
    """(mission, end) of an attempt."""
    mission, ended = inside.need(
        "SELECT mission, ended_at FROM attempts WHERE attempt = ?", attempt
    )
    return mission, ended
