"""What a plan and its data leave in the ledger: missions, packs, runs, their hashes and keys.

Statements only, each call inside a transaction of the writer. Knows no attempt and no result.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fleet.errors import KeyConflictError
from fleet.keys import run_key
from fleet.ledger import chain
from fleet.ledger.reopening import freeze_body, insert_packs
from fleet.ledger.transitions import Transitions
from fleet.redaction import redactor

if TYPE_CHECKING:
    from fleet.plan import CampaignPlan


def write_plan(
    cx: sqlite3.Connection,
    inside: Transitions,
    plan: CampaignPlan,
    meta: Mapping[str, Any],
    now: float,
) -> None:
    """Missions, packs and runs of the plan, and every hash in the chain of decisions.

    Raises:
        KeyConflictError: a mission is recorded with another specification.
    """
    for key, value in {"run_id": plan.run_id, "profile": plan.profile, **meta}.items():
        inside.put_meta(key, json.dumps(redactor().data(value), sort_keys=True))
    inside.put_meta("code_version", json.dumps(plan.code_version))
    for work in plan.works:
        spec_json = json.dumps(work.spec.model_dump(mode="json"))
        known = inside.one("SELECT spec_hash FROM missions WHERE mission = ?", work.mission)
        if known is not None:
            if known[0] != work.spec_hash:
                raise KeyConflictError(
                    f"Mission {work.mission} is recorded with hash {known[0][:12]}, "
                    f"planned now with {work.spec_hash[:12]}."
                )
            continue
        cx.execute(
            "INSERT INTO missions (mission, position, title, spec_hash, spec_json, phase,"
            " expected_cpu_s) VALUES (?, ?, ?, ?, ?, 'waiting', ?)",
            (
                work.mission,
                work.position,
                work.spec.title,
                work.spec_hash,
                spec_json,
                work.expected_cpu_s,
            ),
        )
        insert_packs(cx, work)
        # What is chosen by a sweep is frozen when it is settled; gates and seeds are fixed now.
        kind = "freeze" if work.spec.sweep is None else "mission_file"
        chain.append(cx, now, kind, freeze_body(work, plan.code_version))


def write_data(
    cx: sqlite3.Connection,
    inside: Transitions,
    mission: str,
    digest: str,
    leaks: Mapping[str, int],
    summary: Mapping[str, int],
) -> None:
    """What `prepare` made, and with its digest the keys of the mission's runs.

    Raises:
        KeyConflictError: another worker prepared different data.
    """
    spec_hash, before = inside.need(
        "SELECT spec_hash, data_digest FROM missions WHERE mission = ?", mission
    )
    if before is not None and before != digest:
        raise KeyConflictError(
            f"Mission {mission}: data digest {digest[:12]} now, {before[:12]} before."
        )
    if before is None:
        cx.execute(
            "UPDATE missions SET data_digest = ?, leak_json = ?, summary_json = ?"
            " WHERE mission = ?",
            (digest, json.dumps(dict(leaks)), json.dumps(dict(summary)), mission),
        )
    code_version = json.loads(
        inside.need("SELECT value FROM meta WHERE key = ?", "code_version")[0]
    )
    for run, arm_hash, seed in cx.execute(
        "SELECT run, arm_hash, seed FROM runs WHERE mission = ? AND key IS NULL", (mission,)
    ).fetchall():
        key = run_key(
            mission_hash=spec_hash,
            arm_hash=arm_hash,
            seed=seed,
            code_version=code_version,
            data_hash=digest,
        )
        cx.execute("UPDATE runs SET key = ? WHERE run = ?", (key, run))
