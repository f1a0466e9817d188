"""The ledger's one writer: plans, leases, moves, results, metrics, decisions.

Every public method is one transaction and idempotent, so a call that is delivered twice leaves
what one delivery leaves. What to do after a failure is decided in `fleet.policies`; here it is
only carried out. Knows no Ray.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.errors import StorageError
from fleet.ledger import chain, leases, planning, reopening, results, split_lock, sweeps
from fleet.ledger.database import lock_for_writing, open_writer, transaction
from fleet.ledger.records import Lease, LostAttempt, Point, RunResult, SplitTicket
from fleet.ledger.transitions import Transitions
from fleet.policies import Cause
from fleet.redaction import redactor
from fleet.states import RunState

if TYPE_CHECKING:
    from fleet.plan import CampaignPlan, MissionWork
    from fleet.sweep.records import TrialRow


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
        self._guard = threading.Lock()
        self._inside = Transitions(self._cx, clock=clock, max_tries=max_tries)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One transaction; a worker's loop and its heartbeat may share a ledger in one process."""
        with self._guard, transaction(self._cx):
            yield

    def close(self) -> None:
        """Ends all writing and gives the lock back."""
        self._cx.close()
        self._lock.close()

    # Planning

    def record_plan(self, plan: CampaignPlan, meta: Mapping[str, Any]) -> None:
        """Writes missions, packs and runs, and freezes every hash in the chain of decisions."""
        with self._turn():
            planning.write_plan(self._cx, self._inside, plan, meta, self._clock())

    def set_meta(self, key: str, value: Any) -> None:
        """Notes one fact about the launch; a later value replaces an earlier one."""
        with self._turn():
            self._cx.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = ?",
                (key, *[json.dumps(redactor().data(value), sort_keys=True)] * 2),
            )

    def record_data(
        self, mission: str, digest: str, leaks: Mapping[str, int], summary: Mapping[str, int]
    ) -> None:
        """Notes what `prepare` made and gives the mission's runs their keys.

        Raises:
            KeyConflictError: another worker prepared different data.
        """
        with self._turn():
            planning.write_data(self._cx, self._inside, mission, digest, leaks, summary)

    def set_phase(self, mission: str, phase: str) -> None:
        """Where a mission stands: waiting, starting, preparing, running, judging, or an end."""
        ended = phase in ("judged", "failed", "cancelled")
        now = self._clock()
        with self._turn():
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

    # Drivers and what users order

    def begin_session(
        self, session: str, *, pid: int, process_started: float, host: str, command: str, code: str
    ) -> None:
        """A driver takes the run over."""
        now = self._clock()
        with self._turn():
            self._cx.execute(
                "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (session, pid, process_started, host, redactor().text(command), code, now, now),
            )

    def see_session(self, session: str) -> None:
        """The driver is alive. A write, so that a full disk is noticed while nothing ends."""
        with self._turn():
            self._cx.execute(
                "UPDATE sessions SET seen_at = ? WHERE session = ?", (self._clock(), session)
            )

    def end_session(self, session: str, how: str) -> None:
        """The driver leaves; the first word on how is kept."""
        with self._turn():
            self._cx.execute(
                "UPDATE sessions SET ended_at = ?, how = ? WHERE session = ? AND ended_at IS NULL",
                (self._clock(), redactor().text(how), session),
            )

    def reopen(self, session: str) -> int:
        """Puts what no driver finished back into the queue; returns how many runs wait."""
        with self._turn():
            return reopening.reopen(self._cx, self._inside, session, self._clock())

    def retry(self, runs: Sequence[str], uncancelled: Sequence[str]) -> None:
        """Failed or cancelled runs are planned again."""
        with self._turn():
            reopening.retry(self._cx, self._inside, runs, uncancelled, self._clock())

    def cancel_order(self, mission: str, arm: str | None, reason: str) -> int:
        """A user cancels a mission or an arm; returns how many open runs that ended."""
        with self._turn():
            return reopening.cancel(self._cx, self._inside, mission, arm, reason, self._clock())

    def change_code(self, before: str, after: str) -> None:
        """The run goes on with another code version."""
        with self._turn():
            reopening.change_code(self._cx, before, after, self._clock())

    def change_mission(
        self,
        work: MissionWork,
        differences: Sequence[str],
        *,
        chosen: MissionWork | None,
        data_differ: bool,
        code: str,
    ) -> None:
        """A mission goes on with another specification."""
        with self._turn():
            reopening.change_mission(
                self._cx,
                self._inside,
                work,
                differences,
                chosen=chosen,
                data_differ=data_differ,
                code_version=code,
                now=self._clock(),
            )

    # Attempts and leases

    def begin_attempt(
        self,
        attempt: str,
        *,
        mission: str,
        job: str,
        rank: int,
        host: str,
        pid: int,
        process_started: float | None = None,
    ) -> None:
        """A worker reports for work; what its dead predecessor of the same rank held goes back."""
        row = (attempt, mission, job, rank, host, pid, process_started)
        with self._turn():
            leases.begin_attempt(self._cx, self._inside, row, self._clock())

    def heartbeat(self, attempt: str) -> bool:
        """The attempt is alive. Returns whether it should stop."""
        with self._turn():
            return leases.heartbeat(self._cx, self._inside, attempt, self._clock())

    def lease(self, attempt: str) -> Lease | None:
        """The next pack for this attempt; the one that it still holds, if any; or None."""
        with self._turn():
            return leases.lease(self._cx, self._inside, attempt, self._clock())

    def start_pack(self, attempt: str, pack: str) -> None:
        """The pack's training begins."""
        with self._turn():
            self._inside.check_owner(attempt, pack)
            for run, state in self._inside.states(pack):
                if state is RunState.LEASED:
                    self._inside.move(run, RunState.RUNNING, "", attempt)

    def open_test(self, ticket: SplitTicket) -> None:
        """Unlocks the test split for one evaluation and writes the read into the chain.

        Raises:
            LockedSplitError: the arm's settings are not the ones that were frozen.
        """
        with self._turn():
            split_lock.open_for(self._cx, self._clock(), ticket)

    def finish_run(self, attempt: str, result: RunResult) -> None:
        """Stores a run's scores durably, registers them and moves the run to DONE.

        Raises:
            LockedSplitError: scores that did not pass through `open_test`.
            KeyConflictError: the key holds another value already.
        """
        path = results.store_scores(self._path.parent / "scores", result)
        with self._turn():
            results.register(self._cx, self._inside, self._clock(), attempt, result, path.name)

    def fail_run(
        self, attempt: str, run: str, *, cause: Cause, reason: str, traceback: str
    ) -> None:
        """Records a run's failure with its traceback; the rest of the pack goes on."""
        with self._turn():
            state = self._inside.need("SELECT state FROM runs WHERE run = ?", run)[0]
            if RunState(state) is RunState.CANCELLED:
                return
            self._inside.fail(run, cause, reason, traceback, attempt)

    def end_pack(self, attempt: str, pack: str) -> None:
        """The holder is done with the pack, whatever became of its runs."""
        with self._turn():
            leases.end_pack(self._cx, self._inside, attempt, pack, self._clock())

    def end_attempt(self, attempt: str, cause: Cause | None = None, reason: str = "") -> None:
        """A worker leaves; a pack that it still holds is released as `cause` asks."""
        with self._turn():
            self._inside.end_attempt(attempt, cause, reason)

    def end_job(self, job: str, reason: str, cause: Cause = Cause.WORKER_DIED) -> None:
        """A worker group is gone: every attempt of it that did not say good-bye has died."""
        with self._turn():
            leases.end_job(self._cx, self._inside, job, cause, reason)

    def sweep_leases(self, *, stale_after_s: float) -> list[LostAttempt]:
        """Marks the runs of silent workers STALE, then takes them away; returns who lost them."""
        with self._turn():
            return leases.sweep(self._cx, self._inside, self._clock(), stale_after_s=stale_after_s)

    def fail_mission(self, mission: str, *, reason: str, traceback: str) -> None:
        """The whole mission failed (prepare, base, worker group): its open runs fail with it."""
        with self._turn():
            self._cx.execute(
                "UPDATE missions SET error = coalesce(error, ?), traceback = coalesce(traceback, ?)"
                " WHERE mission = ?",
                (redactor().text(reason), redactor().text(traceback), mission),
            )
            self._inside.close_open_runs(mission, RunState.FAILED, reason, traceback)

    def cancel(self, missions: Sequence[str], reason: str) -> None:
        """Cancels every open run of these missions."""
        with self._turn():
            for mission in missions:
                self._inside.close_open_runs(mission, RunState.CANCELLED, reason, None)

    def request_stop(self, mission: str, reason: str) -> None:
        """Asks the workers of a mission to leave (told to them at their next heartbeat)."""
        with self._turn():
            self._inside.put_meta(f"stop/{mission}", json.dumps(redactor().text(reason)))

    # Sweeps

    def record_trial(self, row: TrialRow) -> None:
        """Registers a trial of a sweep.

        Raises:
            KeyConflictError: the key holds another score already.
        """
        with self._turn():
            sweeps.register(self._cx, row, self._clock())
            self._cx.execute(
                "INSERT INTO timings VALUES (?, 'sweep', ?, ?, ?, ?)",
                (row.mission, row.key[:16], row.wall_s, row.cpu_s, self._clock()),
            )

    def find_trial(self, key: str) -> TrialRow | None:
        """The trial with this key, if it was run."""
        with self._guard:
            return sweeps.find(self._cx, key)

    def settle_sweep(
        self, mission: str, spec_json: str, choice: Mapping[str, Any], freeze: Mapping[str, Any]
    ) -> None:
        """Records what a sweep chose and freezes the arms with it.

        Raises:
            KeyConflictError: the sweep was settled otherwise before.
        """
        with self._turn():
            sweeps.settle(
                self._cx,
                self._clock(),
                mission=mission,
                spec_json=spec_json,
                choice=choice,
                freeze=freeze,
            )

    # Extras, metrics, decisions

    def claim_extras(self, mission: str, attempt: str) -> bool:
        """True for the one attempt that makes the report's extras: the grid must be complete."""
        with self._turn():
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
        with self._turn():
            self._cx.execute(
                "UPDATE missions SET extras_json = ? WHERE mission = ?", (extras_json, mission)
            )

    def log_points(self, points: Iterable[Point]) -> None:
        """A batch of scalars; a non-finite one is told as an event, for no column holds it."""
        now = self._clock()
        rows = [(p.run, p.step, p.name, p.value, now) for p in points]
        finite = [row for row in rows if math.isfinite(row[3])]
        with self._turn():
            self._cx.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", finite)
            for run, step, name, value, _ in rows:
                if not math.isfinite(value):
                    self._inside.event("error", run, f"{name} is {value} at step {step}")

    def decide(self, kind: str, body: Mapping[str, Any]) -> str:
        """Appends a decision to the chain; said again with nothing new, it is one."""
        body_json = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        with self._turn():
            last = self._inside.one(
                "SELECT hash, body_json FROM decisions WHERE kind = ? AND"
                " json_extract(body_json, '$.mission') IS json_extract(?, '$.mission')"
                " ORDER BY seq DESC LIMIT 1",
                kind,
                body_json,
            )
            if last is not None and last[1] == body_json:
                return str(last[0])
            return chain.append(self._cx, self._clock(), kind, body)

    def event(self, level: str, source: str, text: str) -> None:
        """Notes something worth telling."""
        with self._turn():
            self._inside.event(level, source, text)

    def timing(self, mission: str, stage: str, name: str, wall_s: float, cpu_s: float) -> None:
        """Notes where time went."""
        with self._turn():
            self._cx.execute(
                "INSERT INTO timings VALUES (?, ?, ?, ?, ?, ?)",
                (mission, stage, name, wall_s, cpu_s, self._clock()),
            )

    def checkpoint(self) -> None:
        """Folds the write-ahead log into the database file."""
        try:
            with self._guard:  # no transaction: SQLite refuses to fold inside one
                self._cx.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self._path}: cannot be checkpointed: {error}") from None
