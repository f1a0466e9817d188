"""The lock on the test split as the ledger keeps it: opens for frozen arms, every read a link.

A read is a decision of kind `test_read` in the hash chain, so it cannot be taken back, and it
stands behind the `freeze` that allowed it (the newest of the mission: one that was changed by
order is frozen again). The chain as a whole is verified by whoever reads it. Knows SQLite
connections and the rule of `missions.split_lock`; no scores.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from fleet.errors import LedgerError
from fleet.ledger import chain
from fleet.ledger.records import SplitTicket
from missions.split_lock import refuse_unfrozen

FREEZE = "freeze"
MISSION_FILE = "mission_file"
"""A mission whose arms are frozen later, when its sweep is settled."""
TEST_READ = "test_read"


def open_for(cx: sqlite3.Connection, at: float, ticket: SplitTicket) -> None:
    """Records one read inside the caller's transaction; the same ticket twice is one read.

    Raises:
        LockedSplitError: the arm's settings are not the frozen ones.
        LedgerError: an unknown run, or the freeze was tampered with.
    """
    row = cx.execute(
        "SELECT mission, arm, seed, arm_hash FROM runs WHERE run = ?", (ticket.run,)
    ).fetchone()
    if row is None:
        raise LedgerError(f"The ledger knows no run {ticket.run!r}.")
    mission, arm, seed, _ = row
    if any(ticket.ticket == known for known, _ in _reads_of(cx, ticket.run)):
        return
    frozen = _frozen(cx, mission)
    if frozen.get(arm) != ticket.arm_hash:
        refuse_unfrozen(
            mission, arm, frozen.get(arm), ticket.arm_hash, num_reads(cx, mission).get(arm, 0)
        )
    body: dict[str, Any] = {
        "ticket": ticket.ticket,
        "mission": mission,
        "run": ticket.run,
        "arm": arm,
        "seed": seed,
        "arm_hash": ticket.arm_hash,
        "attempt": ticket.attempt,
        "host": ticket.host,
        "pid": ticket.pid,
    }
    chain.append(cx, at, TEST_READ, body)


def was_opened(cx: sqlite3.Connection, run: str, attempt: str) -> bool:
    """Whether this attempt read the test split for this run, by the book."""
    return any(attempt == reader for _, reader in _reads_of(cx, run))


def num_reads(cx: sqlite3.Connection, mission: str) -> dict[str, int]:
    """Arm -> how often its test scores were read in this run."""
    rows = cx.execute(
        "SELECT json_extract(body_json, '$.arm'), count(*) FROM decisions WHERE kind = 'test_read'"
        " AND json_extract(body_json, '$.mission') = ? GROUP BY 1",
        (mission,),
    )
    return dict(rows.fetchall())


def _reads_of(cx: sqlite3.Connection, run: str) -> list[tuple[str, str]]:
    """(ticket, attempt) of every read of one run."""
    return cx.execute(
        "SELECT json_extract(body_json, '$.ticket'), json_extract(body_json, '$.attempt')"
        " FROM decisions WHERE kind = 'test_read' AND json_extract(body_json, '$.run') = ?",
        (run,),
    ).fetchall()


def _frozen(cx: sqlite3.Connection, mission: str) -> dict[str, str]:
    """Arm -> hash, from the mission's newest freeze; that link must be as it was recorded.

    Nothing is frozen while a sweep is open, though an earlier one was settled: its file is newer.
    """
    rows = cx.execute(
        "SELECT seq, at, kind, body_json, previous, hash FROM decisions WHERE kind IN (?, ?)"
        " ORDER BY seq DESC",
        (FREEZE, MISSION_FILE),
    )
    for seq, at, kind, body_json, previous, digest in rows:
        body = json.loads(body_json)
        if body["mission"] != mission:
            continue
        if chain.link_hash(seq, at, kind, body_json, previous) != digest:
            raise LedgerError(f"Decision {seq} ({kind}) was changed after it was recorded.")
        return dict(body["arm_hashes"]) if kind == FREEZE else {}
    return {}
