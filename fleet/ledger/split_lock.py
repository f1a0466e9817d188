"""The lock on the test split as the ledger keeps it: opens for frozen arms, every read a link.

A read is a decision of kind `test_read` in the hash chain, so it cannot be taken back, and it
stands behind the `freeze` that allowed it. Knows SQLite connections and the rule of
`missions.split_lock`; no scores.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from fleet.errors import LedgerError
from fleet.ledger import chain
from fleet.ledger.records import Decision, SplitTicket
from missions.split_lock import refuse_unfrozen

FREEZE = "freeze"
TEST_READ = "test_read"


def open_for(cx: sqlite3.Connection, at: float, ticket: SplitTicket) -> None:
    """Records one read inside the caller's transaction; the same ticket twice is one read.

    Raises:
        LockedSplitError: the arm's settings are not the frozen ones.
        LedgerError: an unknown run, or the chain does not hold.
    """
    row = cx.execute(
        "SELECT mission, arm, seed, arm_hash FROM runs WHERE run = ?", (ticket.run,)
    ).fetchone()
    if row is None:
        raise LedgerError(f"The ledger knows no run {ticket.run!r}.")
    mission, arm, seed, _ = row
    links = chain.read(cx.execute("SELECT * FROM decisions ORDER BY seq").fetchall())
    if any(link.body["ticket"] == ticket.ticket for link in links if link.kind == TEST_READ):
        return
    frozen = next((link.body for link in links if _freezes(link, mission)), None)
    seen = sum(_reads(link, mission, arm) for link in links)
    refuse_unfrozen(
        mission, arm, frozen["arm_hashes"].get(arm) if frozen else None, ticket.arm_hash, seen
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
    found = cx.execute(
        "SELECT 1 FROM decisions WHERE kind = ? AND json_extract(body_json, '$.run') = ?"
        " AND json_extract(body_json, '$.attempt') = ? LIMIT 1",
        (TEST_READ, run, attempt),
    ).fetchone()
    return found is not None


def _freezes(link: Decision, mission: str) -> bool:
    return link.kind == FREEZE and link.body["mission"] == mission


def _reads(link: Decision, mission: str, arm: str) -> bool:
    return link.kind == TEST_READ and (link.body["mission"], link.body["arm"]) == (mission, arm)
