"""Tables of the registry and their version. Data only; `decisions` is the ledger's chain."""

from __future__ import annotations

from fleet.ledger.database import Schema

VERSION = 1

REGISTRY = Schema(
    kind="registry",
    option="--registry",
    version=VERSION,
    oldest=1,
    statements="""
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE models (
    id TEXT PRIMARY KEY,
    line TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    mission TEXT NOT NULL,
    arm TEXT NOT NULL,
    base_model TEXT,
    base_digest TEXT,
    run_id TEXT NOT NULL,
    verdict TEXT NOT NULL,
    forced TEXT,
    manifest_sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    created_at REAL NOT NULL
) STRICT;

CREATE TABLE aliases (
    line TEXT NOT NULL,
    alias TEXT NOT NULL,
    model TEXT NOT NULL REFERENCES models (id),
    since REAL NOT NULL,
    PRIMARY KEY (line, alias)
) STRICT;

CREATE TABLE reigns (
    id INTEGER PRIMARY KEY,
    line TEXT NOT NULL,
    model TEXT NOT NULL REFERENCES models (id),
    began_at REAL NOT NULL,
    ended_at REAL,
    withdrawn INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX reigns_of_line ON reigns (line, id);

CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body_json TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
) STRICT
""",
)
