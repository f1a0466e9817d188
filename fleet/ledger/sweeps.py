"""What a sweep leaves in the ledger: a row for every trial under its key, and the settled choice.

Same key, same value, as for results: a trial that comes twice is one row, a different score is an
alarm. Statements only, inside a transaction of the writer.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from fleet.errors import KeyConflictError, LedgerError
from fleet.keys import canonical_digest
from fleet.ledger import chain
from fleet.redaction import redactor
from fleet.sweep.records import TrialRow

SWEEP = "sweep"
COLUMNS = "key, mission, arm, number, rung, body_json, error, traceback, cpu_s, wall_s"


def register(cx: sqlite3.Connection, row: TrialRow, now: float) -> None:
    """Registers a trial.

    Raises:
        KeyConflictError: the key holds another score already.
    """
    value = _value(row)
    known = cx.execute("SELECT value_digest FROM trials WHERE key = ?", (row.key,)).fetchone()
    if known is not None:
        if known[0] != value:
            raise KeyConflictError(
                f"Mission {row.mission}, trial {row.number} of arm {row.arm}: key {row.key[:12]} "
                "holds another score, and came again. The first is kept."
            )
        return
    body = {
        "settings": dict(row.settings),
        "seed_scores": {str(seed): value for seed, value in row.seed_scores.items()},
        "cost": dict(row.cost),
    }
    cx.execute(
        f"INSERT INTO trials ({COLUMNS}, value_digest, at) VALUES"
        " (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.key,
            row.mission,
            row.arm,
            row.number,
            row.rung,
            json.dumps(body, sort_keys=True, allow_nan=False),
            redactor().text(row.error),
            redactor().text(row.traceback),
            row.cpu_s,
            row.wall_s,
            value,
            now,
        ),
    )


def find(cx: sqlite3.Connection, key: str) -> TrialRow | None:
    """The trial with this key, if it was run."""
    rows = read(cx.execute(f"SELECT {COLUMNS} FROM trials WHERE key = ?", (key,)).fetchall())
    return rows[0] if rows else None


def read(rows: Iterable[tuple[Any, ...]]) -> list[TrialRow]:
    """Parses rows of `COLUMNS`."""
    found = []
    for key, mission, arm, number, rung, body_json, error, traceback, cpu_s, wall_s in rows:
        body = json.loads(body_json)
        found.append(
            TrialRow(
                key=key,
                mission=mission,
                arm=arm,
                number=number,
                rung=rung,
                settings=body["settings"],
                seed_scores={int(seed): value for seed, value in body["seed_scores"].items()},
                cost=body["cost"],
                error=error,
                traceback=traceback,
                cpu_s=cpu_s,
                wall_s=wall_s,
            )
        )
    return found


def settle(
    cx: sqlite3.Connection,
    now: float,
    *,
    mission: str,
    spec_json: str,
    choice: Mapping[str, Any],
    freeze: Mapping[str, Any],
) -> None:
    """Records what a sweep chose and freezes the arms with it; the same choice twice is one.

    Args:
        spec_json: the specification with the chosen settings.
        choice: body of the decision: settings, scores and budget of every arm.
        freeze: body of the freeze that follows it.

    Raises:
        KeyConflictError: the sweep was settled otherwise before.
        LedgerError: no such mission.
    """
    known = cx.execute("SELECT spec_json FROM sweeps WHERE mission = ?", (mission,)).fetchone()
    if known is not None:
        if json.loads(known[0]) != json.loads(spec_json):
            raise KeyConflictError(f"Mission {mission}: its sweep was settled otherwise before.")
        return
    if cx.execute("SELECT 1 FROM missions WHERE mission = ?", (mission,)).fetchone() is None:
        raise LedgerError(f"The ledger knows no mission {mission!r}.")
    cx.execute("INSERT INTO sweeps VALUES (?, ?, ?)", (mission, spec_json, now))
    cx.executemany(
        "UPDATE runs SET arm_hash = ?, key = NULL"
        " WHERE mission = ? AND arm = ? AND state != 'DONE'",
        [(arm_hash, mission, arm) for arm, arm_hash in freeze["arm_hashes"].items()],
    )
    chain.append(cx, now, SWEEP, choice)
    chain.append(cx, now, "freeze", freeze)


def forget(cx: sqlite3.Connection, mission: str) -> None:
    """What was searched changed: the sweep is open again. Trials stay under their keys."""
    cx.execute("DELETE FROM sweeps WHERE mission = ?", (mission,))


def carry_over(cx: sqlite3.Connection, mission: str, spec_json: str) -> None:
    """The mission's file changed in what no sweep searches: what was chosen stays chosen."""
    cx.execute("UPDATE sweeps SET spec_json = ? WHERE mission = ?", (spec_json, mission))


def _value(row: TrialRow) -> str:
    scores = {str(seed): value for seed, value in row.seed_scores.items()}
    return canonical_digest({"scores": scores, "cost": dict(row.cost), "failed": bool(row.error)})
