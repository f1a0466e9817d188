"""Reads a ledger from any process, while its writer works. Opens it read-only; changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fleet.errors import NotFoundError
from fleet.ledger import chain, sweeps
from fleet.ledger.database import has_table, open_reader
from fleet.ledger.orders import ORDER_KINDS, Orders, standing_orders
from fleet.ledger.records import (
    AttemptRow,
    Decision,
    Event,
    MissionRow,
    PackRow,
    ResultRow,
    RunRow,
    SessionRow,
    Timing,
)
from fleet.policies.retry import Cause
from fleet.states import RunState
from fleet.sweep.records import TrialRow


class LedgerReader(AbstractContextManager["LedgerReader"]):
    """Read-only view of one ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cx: sqlite3.Connection = open_reader(path)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._cx.close()

    def meta(self) -> dict[str, Any]:
        """Facts about the launch."""
        rows = self._cx.execute("SELECT key, value FROM meta").fetchall()
        return {key: json.loads(value) for key, value in rows}

    def missions(self) -> list[MissionRow]:
        """All missions in their order of start."""
        rows = self._cx.execute(
            "SELECT mission, position, title, phase, expected_cpu_s, spec_hash, data_digest, error,"
            " traceback, started_at, ended_at FROM missions ORDER BY position"
        )
        names = [column[0] for column in rows.description]
        return [MissionRow(**dict(zip(names, row, strict=True))) for row in rows.fetchall()]

    def spec_json(self, mission: str) -> str:
        """The resolved mission file as it was frozen."""
        row = self._cx.execute(
            "SELECT spec_json FROM missions WHERE mission = ?", (mission,)
        ).fetchone()
        if row is None:
            raise NotFoundError(f"{self.path} knows no mission {mission!r}.")
        return str(row[0])

    def prepared(self, mission: str) -> tuple[dict[str, int], dict[str, int]]:
        """(leak report, summary) of a mission's data; empty before `prepare`."""
        row = self._cx.execute(
            "SELECT leak_json, summary_json FROM missions WHERE mission = ?", (mission,)
        ).fetchone()
        leaks, summary = row if row else (None, None)
        return json.loads(leaks or "{}"), json.loads(summary or "{}")

    def extras(self, mission: str) -> list[dict[str, Any]]:
        """Tables and figures that the mission lends to the report."""
        row = self._cx.execute(
            "SELECT extras_json FROM missions WHERE mission = ?", (mission,)
        ).fetchone()
        return list(json.loads(row[0])) if row and row[0] else []

    def runs(self, mission: str | None = None) -> list[RunRow]:
        """Runs in the order in which they were planned."""
        rows = self._cx.execute(
            "SELECT run, mission, pack, arm, seed, state, reason, traceback, key, started_at,"
            " ended_at FROM runs WHERE ?1 IS NULL OR mission = ?1 ORDER BY rowid",
            (mission,),
        )
        names = [column[0] for column in rows.description]
        found = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
        return [RunRow(**{**row, "state": RunState(row["state"])}) for row in found]

    def states(self, mission: str) -> list[tuple[str, int, str]]:
        """(arm, seed, state) of every run as planned: what a table shows many times a second."""
        return self._cx.execute(
            "SELECT arm, seed, state FROM runs WHERE mission = ? ORDER BY rowid", (mission,)
        ).fetchall()

    def counts(self) -> dict[str, dict[RunState, int]]:
        """Mission -> state -> number of runs."""
        found: dict[str, dict[RunState, int]] = {}
        for mission, state, count in self._cx.execute(
            "SELECT mission, state, count(*) FROM runs GROUP BY mission, state"
        ).fetchall():
            found.setdefault(mission, {})[RunState(state)] = count
        return found

    def packs(self, mission: str | None = None) -> list[PackRow]:
        """Packs in the order in which they are leased."""
        rows = self._cx.execute(
            "SELECT pack, mission, seed, owner, tries, leased_at, ended_at FROM packs"
            " WHERE ?1 IS NULL OR mission = ?1 ORDER BY mission, position",
            (mission,),
        )
        names = [column[0] for column in rows.description]
        return [PackRow(**dict(zip(names, row, strict=True))) for row in rows.fetchall()]

    def results(self, mission: str | None = None) -> list[ResultRow]:
        """Registered results in the order of their runs."""
        rows = self._cx.execute(
            "SELECT results.key, results.run, mission, arm, seed, scores_file, scores_digest,"
            " artifact, cost_json, figures_json FROM results JOIN runs USING (run)"
            " WHERE ?1 IS NULL OR mission = ?1 ORDER BY runs.rowid",
            (mission,),
        )
        names = [column[0] for column in rows.description]
        return [ResultRow(**dict(zip(names, row, strict=True))) for row in rows.fetchall()]

    def attempts(self, mission: str | None = None) -> list[AttemptRow]:
        """Worker processes in the order in which they reported."""
        rows = self._cx.execute(
            "SELECT attempt, mission, job, rank, host, started_at, ended_at, outcome"
            " FROM attempts WHERE ?1 IS NULL OR mission = ?1 ORDER BY started_at, attempt",
            (mission,),
        )
        names = [column[0] for column in rows.description]
        return [AttemptRow(**dict(zip(names, row, strict=True))) for row in rows.fetchall()]

    def decisions(self) -> list[Decision]:
        """The whole chain, verified.

        Raises:
            LedgerError: a link was changed, removed or reordered.
        """
        return chain.read(self._cx.execute("SELECT * FROM decisions ORDER BY seq").fetchall())

    def bodies(self, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
        """(kind, body) of the decisions of some kinds, in order; the chain is not verified.

        For what is looked at many times a second; who judges reads `decisions`.
        """
        marks = ", ".join("?" * len(kinds))
        rows = self._cx.execute(
            f"SELECT kind, body_json FROM decisions WHERE kind IN ({marks}) ORDER BY seq",
            kinds,
        )
        return [(kind, json.loads(body)) for kind, body in rows.fetchall()]

    def orders(self) -> Orders:
        """What users have ordered so far."""
        return standing_orders(self.bodies(*ORDER_KINDS))

    def code_versions(self) -> dict[str, str]:
        """Run -> code version that its result was made with; empty strings in older ledgers."""
        rows = self._cx.execute("PRAGMA table_info(results)").fetchall()
        if "code_version" not in {row[1] for row in rows}:
            return {}
        return dict(self._cx.execute("SELECT run, code_version FROM results").fetchall())

    def test_reads(self) -> dict[str, dict[str, int]]:
        """Mission -> arm -> how often its test scores were read."""
        found: dict[str, dict[str, int]] = {}
        for mission, arm, count in self._cx.execute(
            "SELECT json_extract(body_json, '$.mission'), json_extract(body_json, '$.arm'),"
            " count(*) FROM decisions WHERE kind = 'test_read' GROUP BY 1, 2"
        ).fetchall():
            found.setdefault(mission, {})[arm] = count
        return found

    def latest(self, kind: str) -> dict[str, Any] | None:
        """Body of the newest decision of a kind (the chain is verified)."""
        found = [decision.body for decision in self.decisions() if decision.kind == kind]
        return found[-1] if found else None

    def events(
        self, *, level: str | None = None, limit: int = 1000, since: float = 0.0
    ) -> list[Event]:
        """The newest events, oldest first."""
        rows = self._cx.execute(
            "SELECT at, level, source, text FROM events WHERE (?1 IS NULL OR level = ?1)"
            " AND at >= ?3 ORDER BY id DESC LIMIT ?2",
            (level, limit, since),
        ).fetchall()
        return [Event(at=at, level=lv, source=src, text=txt) for at, lv, src, txt in rows[::-1]]

    def newer_events(self, after: int) -> tuple[int, list[Event]]:
        """What was told since: (mark to ask with the next time, events in order).

        Args:
            after: mark of the time before; 0 gives all there are.
        """
        rows = self._cx.execute(
            "SELECT id, at, level, source, text FROM events WHERE id > ? ORDER BY id", (after,)
        ).fetchall()
        events = [Event(at=at, level=lv, source=src, text=txt) for _, at, lv, src, txt in rows]
        return (rows[-1][0] if rows else after), events

    def timings(self) -> list[Timing]:
        """Where time went, in the order of recording."""
        rows = self._cx.execute("SELECT mission, stage, name, wall_s, cpu_s FROM timings")
        return [
            Timing(mission=mission, stage=stage, name=name, wall_s=wall, cpu_s=cpu)
            for mission, stage, name, wall, cpu in rows.fetchall()
        ]

    def trials(self, mission: str | None = None) -> list[TrialRow]:
        """Trials of sweeps, in order of arm, rung and number; none in a ledger older than them."""
        if not has_table(self._cx, "trials"):
            return []
        rows = self._cx.execute(
            f"SELECT {sweeps.COLUMNS} FROM trials WHERE ?1 IS NULL OR mission = ?1"
            " ORDER BY mission, arm, rung, number",
            (mission,),
        )
        return sweeps.read(rows.fetchall())

    def swept_spec_json(self, mission: str) -> str | None:
        """The specification with what a sweep chose; None where no sweep is settled."""
        if not has_table(self._cx, "sweeps"):
            return None
        row = self._cx.execute(
            "SELECT spec_json FROM sweeps WHERE mission = ?", (mission,)
        ).fetchone()
        return str(row[0]) if row else None

    def settled_spec_json(self, mission: str) -> str:
        """The specification that is confirmed: the frozen one, with what a sweep chose."""
        return self.swept_spec_json(mission) or self.spec_json(mission)

    def last_points(self, mission: str) -> Mapping[str, tuple[int, float]]:
        """Run -> (newest step, time of it) from the logged scalars."""
        rows = self._cx.execute(
            "SELECT metrics.run, max(step), max(at) FROM metrics JOIN runs USING (run)"
            " WHERE mission = ? GROUP BY metrics.run",
            (mission,),
        ).fetchall()
        return {run: (step, at) for run, step, at in rows}

    def series(self, *names: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
        """(run, name) -> [(step, value)] of a few scalars, in order of step."""
        marks = ", ".join("(?)" for _ in names)
        rows = self._cx.execute(
            f"SELECT metrics.run, metrics.name, step, value FROM runs CROSS JOIN (VALUES {marks})"
            " AS asked CROSS JOIN metrics INDEXED BY metrics_of_run"
            " ON metrics.run = runs.run AND metrics.name = asked.column1"
            " ORDER BY runs.rowid, metrics.name, step",
            names,
        )
        found: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for run, name, step, value in rows.fetchall():
            found.setdefault((run, name), []).append((step, value))
        return found

    def last_moves(self) -> dict[str, float]:
        """Mission -> when a run of it last moved or logged (among the newest 20,000 scalars)."""
        rows = self._cx.execute(
            "SELECT mission, max(at) FROM (SELECT run, at FROM moves UNION ALL SELECT run, at FROM"
            " (SELECT run, at FROM metrics ORDER BY rowid DESC LIMIT 20000)) JOIN runs USING (run)"
            " GROUP BY mission"
        )
        return dict(rows.fetchall())

    def last_trials(self) -> dict[str, float]:
        """Mission -> when a trial of its sweep last ended; none in ledgers before version 3."""
        if not has_table(self._cx, "trials"):
            return {}
        return dict(self._cx.execute("SELECT mission, max(at) FROM trials GROUP BY mission"))

    def last_starts(self) -> dict[str, float]:
        """Mission -> when a worker of it last began."""
        rows = self._cx.execute("SELECT mission, max(started_at) FROM attempts GROUP BY mission")
        return dict(rows.fetchall())

    def preemptions(self) -> dict[str, int]:
        """Mission -> how often a run of it was PREEMPTED."""
        rows = self._cx.execute(
            "SELECT mission, count(*) FROM moves JOIN runs USING (run) WHERE after = 'PREEMPTED'"
            " GROUP BY mission"
        )
        return dict(rows.fetchall())

    def deaths(self) -> dict[str, int]:
        """Mission -> how often a worker process of it died, by a kill, a hang or want of memory.

        The others of its group die with it, at once or a little later, and that is one death: of a
        group counts the rank that died most often.
        """
        rows = self._cx.execute(
            "SELECT mission, sum(died) FROM (SELECT mission, max(died) AS died FROM"
            " (SELECT mission, job, count(*) AS died FROM attempts WHERE outcome IN (?, ?)"
            " GROUP BY mission, job, rank) GROUP BY mission, job) GROUP BY mission",
            (Cause.WORKER_DIED, Cause.OOM),
        )
        return dict(rows.fetchall())

    def seen(self) -> dict[str, float]:
        """Attempt -> time of its last heartbeat, of those that have not ended."""
        rows = self._cx.execute("SELECT attempt, seen_at FROM attempts WHERE ended_at IS NULL")
        return dict(rows.fetchall())

    def sessions(self) -> list[SessionRow]:
        """The drivers that worked on the run, oldest first; none in ledgers of version 1."""
        if not has_table(self._cx, "sessions"):
            return []
        rows = self._cx.execute("SELECT * FROM sessions ORDER BY started_at")
        names = [column[0] for column in rows.description]
        return [SessionRow(**dict(zip(names, row, strict=True))) for row in rows.fetchall()]
