"""What a finished run leaves: its scores as a file named by content, and one row under its key.

Same key, same value: a result that comes twice is one row, a different value is an alarm and never
an overwrite. Statements only, inside a transaction of the writer.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from fleet.errors import KeyConflictError, LedgerError
from fleet.keys import canonical_digest
from fleet.ledger import split_lock
from fleet.ledger.files import store_by_content
from fleet.ledger.records import RunResult
from fleet.ledger.transitions import Transitions
from fleet.states import RunState
from missions.errors import LockedSplitError


def store_scores(folder: Path, result: RunResult) -> Path:
    """Makes the scores durable before the ledger speaks of them."""
    return store_by_content(folder, result.scores_parquet, ".parquet")


def register(
    cx: sqlite3.Connection,
    inside: Transitions,
    now: float,
    attempt: str,
    result: RunResult,
    scores_file: str,
) -> None:
    """Registers stored scores and moves the run to DONE.

    Raises:
        LockedSplitError: scores that did not pass through `open_test`.
        KeyConflictError: the key holds another value already.
    """
    pack, key, state = inside.need("SELECT pack, key, state FROM runs WHERE run = ?", result.run)
    if RunState(state) is RunState.CANCELLED:
        inside.event("info", result.run, "came after it was cancelled: not kept")
        return
    if key is None:
        raise LedgerError(f"Run {result.run} has no key: its data was never recorded.")
    value = canonical_digest({"scores": result.scores_digest, "cost": json.loads(result.cost_json)})
    known = inside.one("SELECT value_digest FROM results WHERE key = ?", key)
    if known is not None:
        if known[0] != value:
            raise KeyConflictError(
                f"Run {result.run}: key {key[:12]} holds value {known[0][:12]}, and came "
                f"again with {value[:12]}. The first is kept."
            )
        return
    inside.check_owner(attempt, pack)
    if not split_lock.was_opened(cx, result.run, attempt):
        raise LockedSplitError(
            f"Run {result.run}: scores came without a recorded read of the test split."
        )
    cx.execute(
        "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
        " (SELECT json_extract(value, '$') FROM meta WHERE key = 'code_version'))",
        (
            key,
            result.run,
            value,
            result.scores_digest,
            scores_file,
            result.scores_rows,
            result.artifact,
            result.cost_json,
            result.figures_json,
            now,
        ),
    )
    inside.move(result.run, RunState.DONE, "", attempt)
