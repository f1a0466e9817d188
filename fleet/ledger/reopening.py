"""What a user's order does to runs that exist: resume, retry, cancel, changed configuration.

Statements only, each call inside a transaction of the writer. Every order is a link of the chain
of decisions. Knows no driver and no process; the command has made sure that nobody works.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fleet.ledger import chain, sweeps
from fleet.ledger.orders import CANCEL, CHANGE, ORDER_KINDS, RESUME, RETRY, Orders, standing_orders
from fleet.ledger.transitions import Transitions
from fleet.policies import Cause
from fleet.states import RunState

if TYPE_CHECKING:
    from fleet.plan import MissionWork


def orders_of(cx: sqlite3.Connection) -> Orders:
    """The orders that stand."""
    rows = cx.execute(
        "SELECT kind, body_json FROM decisions WHERE kind IN (?, ?, ?) ORDER BY seq", ORDER_KINDS
    )
    return standing_orders((kind, json.loads(body)) for kind, body in rows.fetchall())


def reopen(cx: sqlite3.Connection, inside: Transitions, session: str, now: float) -> int:
    """Puts everything that no driver finished back into the queue; returns how many runs.

    Attempts of the driver that is gone end uncharged, runs that a stop cancelled are planned
    again. What a user cancelled or a mission file ended early stays as it is.
    """
    orders = orders_of(cx)
    for (attempt,) in cx.execute("SELECT attempt FROM attempts WHERE ended_at IS NULL").fetchall():
        inside.end_attempt(attempt, Cause.DRIVER_GONE, "its driver was gone")
    for run, mission, arm in cx.execute(
        "SELECT run, mission, arm FROM runs WHERE state = ?", (RunState.CANCELLED.value,)
    ).fetchall():
        if not orders.closed(mission) and not orders.cancelled(mission, arm):
            inside.move(run, RunState.PLANNED, "resumed", None)
    for (key,) in cx.execute("SELECT key FROM meta WHERE key LIKE 'stop/%'").fetchall():
        if not orders.closed(str(key).partition("/")[2]):
            cx.execute("DELETE FROM meta WHERE key = ?", (key,))
    cx.execute("DELETE FROM meta WHERE key = 'wall_s'")
    cx.execute("UPDATE missions SET extras_owner = NULL WHERE extras_json IS NULL")
    _open_packs(cx)
    left = cx.execute("SELECT count(*) FROM runs WHERE state = 'PLANNED'").fetchone()[0]
    chain.append(cx, now, RESUME, {"session": session, "runs_left": left})
    inside.event("info", "fleet", f"resumed with {left} runs to do")
    return int(left)


def retry(
    cx: sqlite3.Connection,
    inside: Transitions,
    runs: Sequence[str],
    uncancelled: Sequence[str],
    now: float,
) -> None:
    """Failed or cancelled runs are planned again, with a full budget of attempts.

    Args:
        uncancelled: missions whose cancellation is taken back.
    """
    for run in runs:
        inside.move(run, RunState.PLANNED, "to be tried again", None)
        cx.execute("UPDATE runs SET traceback = NULL, error_digest = NULL WHERE run = ?", (run,))
        cx.execute(
            "UPDATE packs SET tries = 0 WHERE pack = (SELECT pack FROM runs WHERE run = ?)", (run,)
        )
    for mission in uncancelled:
        cx.execute("DELETE FROM meta WHERE key = ?", (f"stop/{mission}",))
    _open_packs(cx)
    body = {"runs": list(runs), "uncancelled": list(uncancelled)}
    chain.append(cx, now, RETRY, body)
    inside.event("info", "fleet", f"{len(runs)} runs are tried again")


def cancel(
    cx: sqlite3.Connection,
    inside: Transitions,
    mission: str,
    arm: str | None,
    reason: str,
    now: float,
) -> int:
    """Cancels what is open of a mission, or of one of its arms; returns how many runs.

    A worker that is in the middle of such a run learns of it when it hands the result over.
    """
    count = 0
    for run, state in cx.execute(
        "SELECT run, state FROM runs WHERE mission = ?1 AND (?2 IS NULL OR arm = ?2)",
        (mission, arm),
    ).fetchall():
        if not RunState(state).is_terminal:
            inside.move(run, RunState.CANCELLED, reason, None)
            count += 1
    cx.execute(
        "UPDATE packs SET ended_at = ? WHERE mission = ? AND ended_at IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM runs WHERE runs.pack = packs.pack AND state NOT IN"
        " ('DONE', 'FAILED', 'CANCELLED'))",
        (now, mission),
    )
    if arm is None:
        inside.put_meta(f"stop/{mission}", json.dumps(reason))
    chain.append(cx, now, CANCEL, {"mission": mission, "arm": arm, "reason": reason, "runs": count})
    inside.event("warning", mission, f"{arm or 'the mission'}: {count} open runs {reason}")
    return count


def change_code(cx: sqlite3.Connection, before: str, after: str, now: float) -> None:
    """Finished runs keep what the older code gave them; open ones get keys of the new code."""
    cx.execute("UPDATE meta SET value = ? WHERE key = 'code_version'", (json.dumps(after),))
    cx.execute("UPDATE runs SET key = NULL WHERE state != 'DONE'")
    cx.execute(
        "INSERT INTO meta VALUES ('code_changed', 'true') ON CONFLICT (key) DO UPDATE SET"
        " value = 'true'"
    )
    body: dict[str, Any] = {
        "what": "code",
        "mission": None,
        "before": before,
        "after": after,
        "differences": [],
    }
    chain.append(cx, now, CHANGE, body)


def change_mission(
    cx: sqlite3.Connection,
    inside: Transitions,
    work: MissionWork,
    differences: Sequence[str],
    *,
    chosen: MissionWork | None,
    data_differ: bool,
    code_version: str,
    now: float,
) -> None:
    """A mission goes on with another specification; its arms are frozen again.

    Args:
        chosen: the work with what its sweep chose before, where that choice still holds; None
            where there is none, and a sweep is open again.
        data_differ: nothing of it was scored yet, and its data are made anew.
    """
    confirmed = work if chosen is None else chosen
    before = inside.need("SELECT spec_hash FROM missions WHERE mission = ?", work.mission)[0]
    cx.execute(
        "UPDATE missions SET title = ?, spec_hash = ?, spec_json = ? WHERE mission = ?",
        (
            work.spec.title,
            work.spec_hash,
            json.dumps(work.spec.model_dump(mode="json")),
            work.mission,
        ),
    )
    if data_differ:
        cx.execute("UPDATE missions SET data_digest = NULL WHERE mission = ?", (work.mission,))
    cx.execute("UPDATE runs SET key = NULL WHERE state != 'DONE' AND mission = ?", (work.mission,))
    insert_packs(cx, confirmed)
    cx.executemany(
        "UPDATE runs SET arm_hash = ? WHERE run = ? AND state != 'DONE'",
        [(run.arm_hash, run.name) for run in confirmed.runs],
    )
    body = {
        "what": "configuration",
        "mission": work.mission,
        "before": before,
        "after": work.spec_hash,
        "differences": list(differences),
    }
    chain.append(cx, now, CHANGE, body)
    if chosen is None:
        sweeps.forget(cx, work.mission)
    else:
        sweeps.carry_over(cx, work.mission, json.dumps(chosen.spec.model_dump(mode="json")))
    kind = "freeze" if chosen is not None or work.spec.sweep is None else "mission_file"
    chain.append(cx, now, kind, freeze_body(confirmed, code_version))


def insert_packs(cx: sqlite3.Connection, work: MissionWork) -> None:
    """Packs and runs of a mission that are not there yet."""
    for pack in work.packs:
        cx.execute(
            "INSERT OR IGNORE INTO packs (pack, mission, seed, position) VALUES (?, ?, ?, ?)",
            (pack.name, pack.mission, pack.seed, pack.position),
        )
        cx.executemany(
            "INSERT OR IGNORE INTO runs (run, mission, pack, arm, arm_hash, seed, state)"
            " VALUES (?, ?, ?, ?, ?, ?, 'PLANNED')",
            [(r.name, r.mission, r.pack, r.arm, r.arm_hash, r.seed) for r in pack.runs],
        )


def freeze_body(work: MissionWork, code_version: str) -> Mapping[str, Any]:
    """What is frozen before any data exists."""
    return {
        "mission": work.mission,
        "spec_hash": work.spec_hash,
        "arm_hashes": {run.arm: run.arm_hash for run in work.runs},
        "seeds": list(work.spec.seeds),
        "code_version": code_version,
    }


def _open_packs(cx: sqlite3.Connection) -> None:
    """Packs with a run in the queue can be leased; their missions are not at an end."""
    waiting = "(SELECT 1 FROM runs WHERE state = 'PLANNED' AND"
    cx.execute(
        "UPDATE packs SET owner = NULL, ended_at = NULL WHERE EXISTS"
        f" {waiting} runs.pack = packs.pack)"
    )
    cx.execute(
        "UPDATE missions SET phase = 'waiting', ended_at = NULL, error = NULL, traceback = NULL"
        f" WHERE EXISTS {waiting} runs.mission = missions.mission)"
    )
