"""Whether anything changed since a page was made: a short text that differs when the ledger does.

Cheap enough to ask every second: newest ids of the tables that only grow, never a count over runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from fleet.ledger.database import has_writer, open_reader
from fleet.settings import RunPaths

HEARTBEAT_S = 5
"""Heartbeats move the token once in so many seconds: clocks on the page go on, quietly."""
_QUERY = f"""
SELECT (SELECT max(id) FROM moves), (SELECT max(rowid) FROM metrics), (SELECT max(id) FROM events),
    (SELECT max(seq) FROM decisions), (SELECT max(rowid) FROM timings),
    (SELECT CAST(max(seen_at) / {HEARTBEAT_S} AS INTEGER) FROM attempts WHERE ended_at IS NULL),
    (SELECT group_concat(phase || coalesce(ended_at, '')) FROM missions),
    (SELECT group_concat(key || length(value)) FROM meta)
"""


def of_run(paths: RunPaths) -> str:
    """Token of one launch.

    Raises:
        LedgerError: there is no ledger to read.
    """
    cx = open_reader(paths.ledger)
    try:
        row = cx.execute(_QUERY).fetchone()
    finally:
        cx.close()
    alive = has_writer(paths.ledger)
    return _short([repr(row), str(alive)])


def of_folder(runs: Sequence[RunPaths], extra: Iterable[Path] = ()) -> str:
    """Token of many launches, by their files alone."""
    parts = []
    for path in [*(paths.ledger for paths in runs), *extra]:
        for file in (path, path.with_name(f"{path.name}-wal")):
            try:
                facts = file.stat()
            except FileNotFoundError:
                continue
            parts.append(f"{file} {facts.st_size} {facts.st_mtime_ns}")
    return _short(parts)


def _short(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
