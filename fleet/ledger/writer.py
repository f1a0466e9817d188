"""The ledger's one writer: plans, leases, moves, results, metrics, decisions.

Every public method is one transaction and idempotent, so a call that is delivered twice leaves
what one delivery leaves. What to do after a failure is decided in `fleet.policies`; here it is
only carried out. Knows no Ray.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.errors import KeyConflictError, LedgerError
from fleet.keys import canonical_digest
from fleet.ledger import chain, planning, split_lock
from fleet.ledger.database import lock_for_writing, open_writer, transaction
from fleet.ledger.files import store_by_content
from fleet.ledger.records import Lease, Point, RunResult, SplitTicket
from fleet.ledger.transitions import Transitions
from fleet.policies import Cause, LeaseVerdict, judge_lease
from fleet.states import RunState
from missions.errors import LockedSplitError

if TYPE_CHECKING:
    from fleet.plan import CampaignPlan


class Ledger:
    """Opens or creates a ledger and holds its writer's lock until `close`."""

    def __init__(
        self, path: Path, *, max_tries: int = 3, clock: Callable[[], float] = time.time
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._clock = clock
        self._lock = lock_for_writing(path)
        try:
            self._cx = open_writer(path)
        except BaseException:
            self._lock.close()
            raise
        self._inside = Transitions(self._cx, clock=clock, max_tries=max_tries)

    def close(self) -> None:
        """Ends all writing and gives the lock back."""
        self._cx.close()
        self._lock.close()

    # Planning

    def record_plan(self, plan: CampaignPlan, meta: Mapping[str, Any]) -> None:
        """Writes missions, packs and runs, and freezes every hash in the chain of decisions."""
        with transaction(self._cx):
            planning.write_plan(self._cx, self._inside, plan, meta, self._clock())

    def set_meta(self, key: str, value: Any) -> None:
        """Notes one fact about the launch; a later value replaces an earlier one."""
        with transaction(self._cx):
            self._cx.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = ?",
                (key, *[json.dumps(value, sort_keys=True)] * 2),
            )

    def record_data(
        self, mission: str, digest: str, leaks: Mapping[str, int], summary: Mapping[str, int]
    ) -> None:
        """Notes what `prepare` made and gives the mission's runs their keys.

        Raises:
            KeyConflictError: another worker prepared different data.
        """
        with transaction(self._cx):
            planning.write_data(self._cx, self._inside, mission, digest, leaks, summary)

    def set_phase(self, mission: str, phase: str) -> None:
        """Where a mission stands: waiting, starting, preparing, running, judging, or an end."""
        ended = phase in ("judged", "failed", "cancelled")
        now = self._clock()
        with transaction(self._cx):
            self._cx.execute(
                "UPDATE missions SET phase = ?, started_at = coalesce(started_at, ?),"
                " ended_at = ? WHERE mission = ?",
                (
                    phase,
                    None if phase in ("waiting", "starting", "cancelled") else now,
                    now if ended else None,
                    mission,
                ),
            )

    # Attempts and leases

    def begin_attempt(
        self, attempt: str, *, mission: str, job: str, rank: int, host: str, pid: int
    ) -> None:
        """A worker reports for work; what its dead predecessor of the same rank held goes back."""
        now = self._clock()
        with transaction(self._cx):
            if self._inside.one("SELECT 1 FROM attempts WHERE attempt = ?", attempt):
                return
            for (older,) in self._cx.execute(
                "SELECT attempt FROM attempts WHERE job = ? AND rank = ? AND ended_at IS NULL",
                (job, rank),
            ).fetchall():
                self._inside.end_attempt(older, Cause.WORKER_DIED, "the worker process died")
            self._cx.execute(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (attempt, mission, job, rank, host, pid, now, now),
            )

    def heartbeat(self, attempt: str) -> bool:
        """The attempt is alive. Returns whether it should stop."""
        with transaction(self._cx):
            mission, ended = self._inside.need(
                "SELECT mission, ended_at FROM attempts WHERE attempt = ?", attempt
            )
            if ended is not None:
                return True
            self._cx.execute(
                "UPDATE attempts SET seen_at = ? WHERE attempt = ?", (self._clock(), attempt)
            )
            for (run,) in self._inside.held_runs(attempt, RunState.STALE):
                self._inside.move(run, RunState.RUNNING, "heard of again", attempt)
            return self._inside.stopping(mission)

    def lease(self, attempt: str) -> Lease | None:
        """The next pack for this attempt; the one that it still holds, if any; or None."""
        with transaction(self._cx):
            mission, ended = self._inside.need(
                "SELECT mission, ended_at FROM attempts WHERE attempt = ?", attempt
            )
            if ended is not None or self._inside.stopping(mission):
                return None
            held = self._inside.one(
                "SELECT pack FROM packs WHERE owner = ? AND ended_at IS NULL", attempt
            )
            if held is not None:
                return self._inside.lease_of(held[0])
            free = self._inside.one(
                "SELECT pack FROM packs WHERE mission = ? AND owner IS NULL AND ended_at IS NULL"
                " ORDER BY position LIMIT 1",
                mission,
            )
            if free is None:
                return None
            self._cx.execute(
                "UPDATE packs SET owner = ?, tries = tries + 1, leased_at = ? WHERE pack = ?",
                (attempt, self._clock(), free[0]),
            )
            lease = self._inside.lease_of(free[0])
            for run in lease.missing:
                self._inside.move(run, RunState.LEASED, "", attempt)
            return lease

    def start_pack(self, attempt: str, pack: str) -> None:
        """The pack's training begins."""
        with transaction(self._cx):
            self._inside.check_owner(attempt, pack)
            for run, state in self._inside.states(pack):
                if state is RunState.LEASED:
                    self._inside.move(run, RunState.RUNNING, "", attempt)

    def open_test(self, ticket: SplitTicket) -> None:
        """Unlocks the test split for one evaluation and writes the read into the chain.

        Raises:
            LockedSplitError: the arm's settings are not the ones that were frozen.
        """
        with transaction(self._cx):
            split_lock.open_for(self._cx, self._clock(), ticket)

    def finish_run(self, attempt: str, result: RunResult) -> None:
        """Stores a run's scores durably, registers them and moves the run to DONE.

        Raises:
            LockedSplitError: scores that did not pass through `open_test`.
            KeyConflictError: the key holds another value already.
        """
        folder = self._path.parent / "scores"
        path = store_by_content(folder, result.scores_parquet, ".parquet")
        value = canonical_digest(
            {"scores": result.scores_digest, "cost": json.loads(result.cost_json)}
        )
        with transaction(self._cx):
            pack, key = self._inside.need("SELECT pack, key FROM runs WHERE run = ?", result.run)
            if key is None:
                raise LedgerError(f"Run {result.run} has no key: its data was never recorded.")
            known = self._inside.one("SELECT value_digest FROM results WHERE key = ?", key)
            if known is not None:
                if known[0] != value:
                    raise KeyConflictError(
                        f"Run {result.run}: key {key[:12]} holds value {known[0][:12]}, and came "
                        f"again with {value[:12]}. The first is kept."
                    )
                return
            self._inside.check_owner(attempt, pack)
            if not split_lock.was_opened(self._cx, result.run, attempt):
                raise LockedSplitError(
                    f"Run {result.run}: scores came without a recorded read of the test split."
                )
            self._cx.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    result.run,
                    value,
                    result.scores_digest,
                    path.name,
                    result.scores_rows,
                    result.artifact,
                    result.cost_json,
                    result.figures_json,
                    self._clock(),
                ),
            )
            self._inside.move(result.run, RunState.DONE, "", attempt)

    def fail_run(
        self, attempt: str, run: str, *, cause: Cause, reason: str, traceback: str
    ) -> None:
        """Records a run's failure with its traceback; the rest of the pack goes on."""
        with transaction(self._cx):
            self._inside.fail(run, cause, reason, traceback, attempt)

    def end_pack(self, attempt: str, pack: str) -> None:
        """The holder is done with the pack, whatever became of its runs."""
        with transaction(self._cx):
            row = self._inside.need("SELECT owner, ended_at FROM packs WHERE pack = ?", pack)
            if row[1] is not None:
                return
            self._inside.check_owner(attempt, pack)
            open_runs = [run for run, state in self._inside.states(pack) if not state.is_terminal]
            if open_runs:
                raise LedgerError(f"Pack {pack} ends with open runs: {', '.join(open_runs)}.")
            self._cx.execute("UPDATE packs SET ended_at = ? WHERE pack = ?", (self._clock(), pack))

    def end_attempt(self, attempt: str, cause: Cause | None = None, reason: str = "") -> None:
        """A worker leaves; a pack that it still holds is released as `cause` asks."""
        with transaction(self._cx):
            self._inside.end_attempt(attempt, cause, reason)

    def end_job(self, job: str, reason: str) -> None:
        """A worker group is gone: every attempt of it that did not say good-bye has died."""
        with transaction(self._cx):
            for (attempt,) in self._cx.execute(
                "SELECT attempt FROM attempts WHERE job = ? AND ended_at IS NULL", (job,)
            ).fetchall():
                self._inside.end_attempt(attempt, Cause.WORKER_DIED, reason)

    def sweep_leases(self, *, stale_after_s: float) -> list[str]:
        """Marks the runs of silent workers STALE, then takes them away; returns what it did."""
        now = self._clock()
        did: list[str] = []
        with transaction(self._cx):
            for attempt, seen in self._cx.execute(
                "SELECT attempt, seen_at FROM attempts WHERE ended_at IS NULL"
            ).fetchall():
                verdict = judge_lease(now - seen, stale_after_s=stale_after_s)
                if verdict is LeaseVerdict.STALE:
                    for (run,) in self._inside.held_runs(attempt, RunState.RUNNING):
                        self._inside.move(
                            run, RunState.STALE, f"silent for {now - seen:.0f} s", attempt
                        )
                        did.append(f"{run}: worker silent for {now - seen:.0f} s")
                elif verdict is LeaseVerdict.LOST:
                    reason = f"the worker was silent for {now - seen:.0f} s"
                    self._inside.end_attempt(attempt, Cause.WORKER_DIED, reason)
                    did.append(f"{attempt}: {reason}, its pack goes back")
        return did

    def fail_mission(self, mission: str, *, reason: str, traceback: str) -> None:
        """The whole mission failed (prepare, base, worker group): its open runs fail with it."""
        with transaction(self._cx):
            self._cx.execute(
                "UPDATE missions SET error = coalesce(error, ?), traceback = coalesce(traceback, ?)"
                " WHERE mission = ?",
                (reason, traceback, mission),
            )
            self._inside.close_open_runs(mission, RunState.FAILED, reason, traceback)

    def cancel(self, missions: Sequence[str], reason: str) -> None:
        """Cancels every open run of these missions."""
        with transaction(self._cx):
            for mission in missions:
                self._inside.close_open_runs(mission, RunState.CANCELLED, reason, None)

    def request_stop(self, mission: str, reason: str) -> None:
        """Asks the workers of a mission to leave (told to them at their next heartbeat)."""
        with transaction(self._cx):
            self._inside.put_meta(f"stop/{mission}", json.dumps(reason))

    # Extras, metrics, decisions

    def claim_extras(self, mission: str, attempt: str) -> bool:
        """True for the one attempt that makes the report's extras: the grid must be complete."""
        with transaction(self._cx):
            missing = self._inside.need(
                "SELECT count(*) FROM runs WHERE mission = ? AND state != 'DONE'", mission
            )[0]
            owner = self._inside.need(
                "SELECT extras_owner FROM missions WHERE mission = ?", mission
            )[0]
            if missing or owner not in (None, attempt):
                return False
            self._cx.execute(
                "UPDATE missions SET extras_owner = ? WHERE mission = ?", (attempt, mission)
            )
            return True

    def record_extras(self, mission: str, extras_json: str) -> None:
        """Tables and figures that a mission lends to the report."""
        with transaction(self._cx):
            self._cx.execute(
                "UPDATE missions SET extras_json = ? WHERE mission = ?", (extras_json, mission)
            )

    def log_points(self, points: Iterable[Point]) -> None:
        """A batch of scalars; a non-finite one is told as an event, for no column holds it."""
        now = self._clock()
        rows = [(p.run, p.step, p.name, p.value, now) for p in points]
        finite = [row for row in rows if math.isfinite(row[3])]
        with transaction(self._cx):
            self._cx.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", finite)
            for run, step, name, value, _ in rows:
                if not math.isfinite(value):
                    self._inside.event("error", run, f"{name} is {value} at step {step}")

    def decide(self, kind: str, body: Mapping[str, Any]) -> str:
        """Appends a decision to the chain; the same decision twice in a row is one."""
        body_json = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        with transaction(self._cx):
            same = self._inside.one(
                "SELECT hash FROM decisions WHERE kind = ? AND body_json = ? LIMIT 1",
                kind,
                body_json,
            )
            return same[0] if same else chain.append(self._cx, self._clock(), kind, body)

    def event(self, level: str, source: str, text: str) -> None:
        """Notes something worth telling."""
        with transaction(self._cx):
            self._inside.event(level, source, text)

    def timing(self, mission: str, stage: str, name: str, wall_s: float, cpu_s: float) -> None:
        """Notes where time went."""
        with transaction(self._cx):
            self._cx.execute(
                "INSERT INTO timings VALUES (?, ?, ?, ?, ?, ?)",
                (mission, stage, name, wall_s, cpu_s, self._clock()),
            )

    def checkpoint(self) -> None:
        """Folds the write-ahead log into the database file."""
        self._cx.execute("PRAGMA wal_checkpoint(TRUNCATE)")
