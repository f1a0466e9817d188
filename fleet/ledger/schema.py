"""Tables of the ledger and their version. Data only.

Times are seconds since the epoch. `runs.key` is empty until the data's digest is known: a run is
planned, and the mission's hash recorded, before any data exists. A new table or column goes into
`SCHEMA` and, for the ledgers that exist, as a step into `MIGRATIONS`; the writer takes an older
ledger through the steps when it opens it, readers read every version from `OLDEST` on.
"""

from __future__ import annotations

VERSION = 3
OLDEST = 1
"""The oldest version that is read and migrated."""

_SESSIONS = """
CREATE TABLE sessions (
    session TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    process_started REAL NOT NULL,
    host TEXT NOT NULL,
    command TEXT NOT NULL,
    code_version TEXT NOT NULL,
    started_at REAL NOT NULL,
    seen_at REAL NOT NULL,
    ended_at REAL,
    how TEXT
) STRICT
"""
"""One row for every driver that worked on the run: the launch and each resume."""
_KINDS = "CREATE INDEX decisions_of_kind ON decisions (kind, seq)"
_READS = """
CREATE INDEX test_reads ON decisions (json_extract(body_json, '$.run')) WHERE kind = 'test_read'
"""
"""So that a read of the test split costs the same at run 10,000 as at the first."""

_TRIALS = """
CREATE TABLE trials (
    key TEXT PRIMARY KEY,
    mission TEXT NOT NULL REFERENCES missions (mission),
    arm TEXT NOT NULL,
    number INTEGER NOT NULL,
    rung INTEGER NOT NULL,
    body_json TEXT NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT NOT NULL,
    cpu_s REAL NOT NULL,
    wall_s REAL NOT NULL,
    value_digest TEXT NOT NULL,
    at REAL NOT NULL
) STRICT
"""
_SWEEPS = """
CREATE TABLE sweeps (
    mission TEXT PRIMARY KEY REFERENCES missions (mission),
    spec_json TEXT NOT NULL,
    at REAL NOT NULL
) STRICT
"""
"""The specification that a mission is confirmed with, once its sweep is settled."""

SCHEMA = f"""
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE missions (
    mission TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    title TEXT NOT NULL,
    spec_hash TEXT NOT NULL,
    spec_json TEXT NOT NULL,
    phase TEXT NOT NULL,
    expected_cpu_s REAL NOT NULL,
    data_digest TEXT,
    leak_json TEXT,
    summary_json TEXT,
    extras_json TEXT,
    extras_owner TEXT,
    error TEXT,
    traceback TEXT,
    started_at REAL,
    ended_at REAL
) STRICT;

CREATE TABLE packs (
    pack TEXT PRIMARY KEY,
    mission TEXT NOT NULL REFERENCES missions (mission),
    seed INTEGER NOT NULL,
    position INTEGER NOT NULL,
    owner TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    leased_at REAL,
    ended_at REAL
) STRICT;
CREATE INDEX packs_of_mission ON packs (mission, position);

CREATE TABLE runs (
    run TEXT PRIMARY KEY,
    mission TEXT NOT NULL REFERENCES missions (mission),
    pack TEXT NOT NULL REFERENCES packs (pack),
    arm TEXT NOT NULL,
    arm_hash TEXT NOT NULL,
    seed INTEGER NOT NULL,
    key TEXT UNIQUE,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    traceback TEXT,
    error_digest TEXT,
    started_at REAL,
    ended_at REAL
) STRICT;
CREATE INDEX runs_of_mission ON runs (mission, state);
CREATE INDEX runs_of_pack ON runs (pack);

CREATE TABLE moves (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (run),
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    at REAL NOT NULL,
    attempt TEXT,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX moves_of_run ON moves (run);

CREATE TABLE attempts (
    attempt TEXT PRIMARY KEY,
    mission TEXT NOT NULL REFERENCES missions (mission),
    job TEXT NOT NULL,
    rank INTEGER NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at REAL NOT NULL,
    seen_at REAL NOT NULL,
    ended_at REAL,
    outcome TEXT,
    process_started REAL
) STRICT;

CREATE TABLE results (
    key TEXT PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (run),
    value_digest TEXT NOT NULL,
    scores_digest TEXT NOT NULL,
    scores_file TEXT NOT NULL,
    scores_rows INTEGER NOT NULL,
    artifact TEXT NOT NULL,
    cost_json TEXT NOT NULL,
    figures_json TEXT NOT NULL,
    at REAL NOT NULL,
    code_version TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE metrics (
    run TEXT NOT NULL,
    step INTEGER NOT NULL,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE INDEX metrics_of_run ON metrics (run, name, step);

CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body_json TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
) STRICT;
{_KINDS};
{_READS};

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    level TEXT NOT NULL,
    source TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;

CREATE TABLE timings (
    mission TEXT NOT NULL,
    stage TEXT NOT NULL,
    name TEXT NOT NULL,
    wall_s REAL NOT NULL,
    cpu_s REAL NOT NULL,
    at REAL NOT NULL
) STRICT;

{_SESSIONS};

{_TRIALS};

{_SWEEPS};
"""

MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE attempts ADD COLUMN process_started REAL",
        "ALTER TABLE results ADD COLUMN code_version TEXT NOT NULL DEFAULT ''",
        _SESSIONS,
        _KINDS,
        _READS,
    ),
    2: (_TRIALS, _SWEEPS),
}
"""Version -> statements that lead to the next one."""
