"""State changes of the ledger, each meant to run inside its caller's transaction.

Here lies how a lease is given back, a run moved and a failure kept; `fleet.policies` decides and
`fleet.states` says what is legal. Knows one SQLite connection, no files and no Ray.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any

from fleet.errors import LedgerError
from fleet.ledger.records import Lease
from fleet.policies import Cause, retry
from fleet.redaction import redactor
from fleet.states import RunState, check_move


class Transitions:
    """Moves of runs, packs and attempts on one connection."""

    def __init__(
        self, cx: sqlite3.Connection, *, clock: Callable[[], float], max_tries: int
    ) -> None:
        self._cx = cx
        self._clock = clock
        self._max_tries = max_tries

    def one(self, sql: str, *values: Any) -> Any:
        """First row of a query, or None."""
        return self._cx.execute(sql, values).fetchone()

    def need(self, sql: str, value: str) -> Any:
        """First row of a query that must have one."""
        row = self._cx.execute(sql, (value,)).fetchone()
        if row is None:
            raise LedgerError(f"The ledger knows no {value!r} ({sql.split(' WHERE ')[0]}).")
        return row

    def put_meta(self, key: str, value: str) -> None:
        """Notes a fact that is not there yet."""
        self._cx.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))

    def event(self, level: str, source: str, text: str) -> None:
        """Notes something worth telling."""
        self._cx.execute(
            "INSERT INTO events (at, level, source, text) VALUES (?, ?, ?, ?)",
            (self._clock(), level, source, redactor().text(text)),
        )

    def stopping(self, mission: str) -> bool:
        """Whether the mission's workers were asked to leave."""
        return self.one("SELECT 1 FROM meta WHERE key = ?", f"stop/{mission}") is not None

    def states(self, pack: str) -> list[tuple[str, RunState]]:
        """(run, state) of a pack's runs, in their order."""
        rows = self._cx.execute(
            "SELECT run, state FROM runs WHERE pack = ? ORDER BY rowid", (pack,)
        )
        return [(run, RunState(state)) for run, state in rows.fetchall()]

    def held_runs(self, attempt: str, state: RunState) -> list[tuple[str]]:
        """Runs in `state` that the attempt holds."""
        return self._cx.execute(
            "SELECT run FROM runs JOIN packs USING (pack) WHERE owner = ? AND packs.ended_at IS"
            " NULL AND state = ?",
            (attempt, state.value),
        ).fetchall()

    def lease_of(self, pack: str) -> Lease:
        """The pack as its holder gets it."""
        seed, tries = self.need("SELECT seed, tries FROM packs WHERE pack = ?", pack)
        rows = self._cx.execute(
            "SELECT run, arm, state, key FROM runs WHERE pack = ? ORDER BY rowid", (pack,)
        ).fetchall()
        return Lease(
            pack=pack,
            seed=seed,
            runs=tuple(
                (run, arm)
                for run, arm, state, _ in rows
                if RunState(state) is not RunState.CANCELLED
            ),
            missing=tuple(run for run, _, state, _ in rows if not RunState(state).is_terminal),
            tries=tries,
            keys={run: key for run, _, _, key in rows if key is not None},
        )

    def check_owner(self, attempt: str, pack: str) -> None:
        """Raises LedgerError unless the attempt holds the pack."""
        owner = self.need("SELECT owner FROM packs WHERE pack = ?", pack)[0]
        if owner != attempt:
            raise LedgerError(f"Attempt {attempt} does not hold pack {pack} (holder: {owner}).")

    def move(self, run: str, after: RunState, reason: str, attempt: str | None) -> None:
        """One legal move of one run, with its line in the log of moves."""
        before = RunState(self.need("SELECT state FROM runs WHERE run = ?", run)[0])
        if before is after:
            return
        check_move(run, before, after)
        reason = redactor().text(reason)
        now = self._clock()
        started = now if after is RunState.RUNNING else None
        self._cx.execute(
            "UPDATE runs SET state = ?, reason = ?, started_at = coalesce(?, started_at),"
            " ended_at = ? WHERE run = ?",
            (after.value, reason, started, now if after.is_terminal else None, run),
        )
        self._cx.execute(
            "INSERT INTO moves (run, before, after, at, attempt, reason) VALUES (?, ?, ?, ?, ?, ?)",
            (run, before.value, after.value, now, attempt, reason),
        )

    def fail(
        self, run: str, cause: Cause, reason: str, traceback: str | None, attempt: str | None
    ) -> None:
        """Moves a run to FAILED and keeps why."""
        reason = redactor().text(reason)
        traceback = None if traceback is None else redactor().text(traceback)
        text = f"{cause.value}: {reason}"
        self.move(run, RunState.FAILED, text, attempt)
        digest = hashlib.sha256((traceback or reason).encode()).hexdigest()[:12]
        self._cx.execute(
            "UPDATE runs SET traceback = ?, error_digest = ? WHERE run = ?",
            (traceback, digest, run),
        )
        self.event("error", run, f"{text} [{digest}]")

    def end_attempt(self, attempt: str, cause: Cause | None, reason: str) -> None:
        """Closes an attempt; what it holds is released."""
        row = self.need("SELECT ended_at FROM attempts WHERE attempt = ?", attempt)
        if row[0] is not None:
            return
        if cause is Cause.STOPPED:
            asked = self.one(
                "SELECT value FROM meta JOIN attempts ON key = 'stop/' || mission"
                " WHERE attempt = ?",
                attempt,
            )
            reason = str(json.loads(asked[0])) if asked else reason
        self._cx.execute(
            "UPDATE attempts SET ended_at = ?, outcome = ? WHERE attempt = ?",
            (self._clock(), cause.value if cause else "left", attempt),
        )
        for pack, tries in self._cx.execute(
            "SELECT pack, tries FROM packs WHERE owner = ? AND ended_at IS NULL", (attempt,)
        ).fetchall():
            self.release(pack, tries, cause or Cause.WORKER_DIED, reason, attempt)

    def release(self, pack: str, tries: int, cause: Cause, reason: str, attempt: str) -> None:
        """Gives a pack back, as the retry policy decides."""
        decision = retry(cause, tries, limit=self._max_tries)
        for run, state in self.states(pack):
            if state.is_terminal:
                continue
            if decision.again:
                if cause is Cause.PREEMPTED and state is not RunState.PLANNED:
                    self.move(run, RunState.PREEMPTED, reason, attempt)
                self.move(run, RunState.PLANNED, reason, attempt)
            elif cause is Cause.STOPPED:
                self.move(run, RunState.CANCELLED, reason, attempt)
            else:
                self.fail(run, cause, f"{reason} ({decision.reason})", None, attempt)
        why = reason if cause is Cause.STOPPED else f"{reason} ({decision.reason})"
        self.event("warning", pack, why)
        open_runs = any(not state.is_terminal for _, state in self.states(pack))
        self._cx.execute(
            "UPDATE packs SET owner = NULL, tries = ?, ended_at = ? WHERE pack = ?",
            (tries if decision.counts else tries - 1, None if open_runs else self._clock(), pack),
        )

    def close_open_runs(
        self, mission: str, state: RunState, reason: str, traceback: str | None
    ) -> None:
        """Ends every run of a mission that is not at an end."""
        rows = self._cx.execute(
            "SELECT run, state FROM runs WHERE mission = ?", (mission,)
        ).fetchall()
        for run, before in rows:
            if RunState(before).is_terminal:
                continue
            if state is RunState.FAILED:
                self.fail(run, Cause.ERROR, reason, traceback, None)
            else:
                self.move(run, state, reason, None)
        self._cx.execute(
            "UPDATE packs SET ended_at = coalesce(ended_at, ?) WHERE mission = ?",
            (self._clock(), mission),
        )
