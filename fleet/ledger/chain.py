"""The hash chain of decisions: each link holds the hash of the one before it.

Whoever changes, removes or reorders a past decision breaks every later link. Knows SQLite
connections, no ledger.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from fleet.errors import LedgerError
from fleet.ledger.records import Decision

ROOT = "0" * 64


def link_hash(seq: int, at: float, kind: str, body_json: str, previous: str) -> str:
    """sha256 over everything that a link says and the hash of the link before."""
    text = json.dumps([seq, repr(at), kind, body_json, previous], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def append(cx: sqlite3.Connection, at: float, kind: str, body: Mapping[str, Any]) -> str:
    """Adds a decision inside the caller's transaction; returns its hash."""
    last = cx.execute("SELECT seq, hash FROM decisions ORDER BY seq DESC LIMIT 1").fetchone()
    seq, previous = (last[0] + 1, last[1]) if last else (1, ROOT)
    body_json = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = link_hash(seq, at, kind, body_json, previous)
    cx.execute(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?)",
        (seq, at, kind, body_json, previous, digest),
    )
    return digest


def read(rows: Iterable[tuple[int, float, str, str, str, str]]) -> list[Decision]:
    """Verifies rows in order of `seq` and parses them.

    Raises:
        LedgerError: names the first link that does not hold.
    """
    decisions: list[Decision] = []
    previous = ROOT
    for position, (seq, at, kind, body_json, before, digest) in enumerate(rows, start=1):
        if seq != position or before != previous:
            raise LedgerError(f"Decision {seq}: the chain is broken (a link before it is gone).")
        if link_hash(seq, at, kind, body_json, before) != digest:
            raise LedgerError(f"Decision {seq} ({kind}) was changed after it was recorded.")
        decisions.append(
            Decision(
                seq=seq, at=at, kind=kind, body=json.loads(body_json), previous=before, hash=digest
            )
        )
        previous = digest
    return decisions
