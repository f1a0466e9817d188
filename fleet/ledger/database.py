"""Opens an SQLite file of the fleet: for its one writer, or read-only for anybody.

The ledger is one such file, the registry another: `Schema` says which tables, of which version.
The writer holds an exclusive lock on a file beside the database for as long as it lives, so a
second writer is refused at once instead of waiting. The operating system drops the lock when the
process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

from fleet.errors import LedgerError, StorageError
from fleet.ledger.files import refuse_network_file_system
from fleet.ledger.schema import MIGRATIONS, OLDEST, SCHEMA, VERSION

_LOCK_TRIES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """What a file holds."""

    kind: str
    """Word for it in errors."""
    option: str
    """Command line option that puts it elsewhere."""
    statements: str
    version: int
    oldest: int
    """Oldest version that is read, and migrated by a writer."""
    migrations: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Version -> statements that lead to the next."""


LEDGER = Schema(
    kind="ledger",
    option="--runs-dir",
    statements=SCHEMA,
    version=VERSION,
    oldest=OLDEST,
    migrations=MIGRATIONS,
)


def lock_for_writing(path: Path) -> IO[str]:
    """Takes the writer's lock of the ledger at `path`; closing the stream gives it back.

    Raises:
        LedgerError: another process holds it.
    """
    stream = path.with_suffix(".lock").open("a+", encoding="utf-8")
    for patience in range(_LOCK_TRIES):
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if patience + 1 < _LOCK_TRIES:  # `has_writer` may hold it for an instant
                time.sleep(0.05)
    else:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        stream.close()
        raise LedgerError(f"{path} has a writer already (process {holder}).")
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def has_writer(path: Path) -> bool:
    """Whether a process holds the writer's lock now: how a live run is told from a dead one."""
    lock = path.with_suffix(".lock")
    if not lock.is_file():
        return False
    with lock.open(encoding="utf-8") as stream:
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def open_writer(path: Path, schema: Schema = LEDGER) -> sqlite3.Connection:
    """Opens, and where it is new creates or older migrates, the file for writing.

    Raises:
        LedgerError: not such a file, or of a schema version that this program does not know.
        StorageError: a network file system, or the disk refused.
    """
    refuse_network_file_system(path.parent, what=schema.kind, option=schema.option)
    try:
        cx = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        cx.execute("PRAGMA journal_mode=WAL")
        cx.execute("PRAGMA synchronous=FULL")
        cx.execute("PRAGMA foreign_keys=ON")
        with transaction(cx):
            tables = cx.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not tables:
                for statement in schema.statements.split(";"):
                    if statement.strip():
                        cx.execute(statement)
                number = (str(schema.version),)
                cx.execute("INSERT INTO meta VALUES ('schema_version', ?)", number)
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{path}: cannot be opened as a {schema.kind}: {error}") from None
    version = _check_version(cx, path, schema)
    if version != schema.version:
        with transaction(cx):
            for step in range(version, schema.version):
                for statement in schema.migrations[step]:
                    cx.execute(statement)
            number = (str(schema.version),)
            cx.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", number)
    return cx


def open_reader(path: Path, schema: Schema = LEDGER) -> sqlite3.Connection:
    """Opens the file read-only.

    Raises:
        LedgerError: there is none, or of a schema version that this program does not know.
    """
    if not path.is_file():
        raise LedgerError(f"No {schema.kind} at {path}.")
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    try:
        cx = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30
        )
        _check_version(cx, path, schema)
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: cannot be read as a {schema.kind}: {error}") from None
    return cx


def is_begun(path: Path) -> bool:
    """Whether the file has its tables; a writer that was killed as it began leaves one without."""
    if not path.is_file():
        return False
    cx = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=30)
    try:
        return has_table(cx, "meta")
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: cannot be read: {error}") from None
    finally:
        cx.close()


def has_table(cx: sqlite3.Connection, name: str) -> bool:
    """Whether the file has this table: older versions lack some."""
    found = cx.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return found is not None


@contextmanager
def transaction(cx: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; disk trouble comes out as StorageError."""
    try:
        cx.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if cx.in_transaction:
                cx.execute("ROLLBACK")
            raise
        cx.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if cx.in_transaction:
            cx.execute("ROLLBACK")
        raise StorageError(f"The database refused a write: {error}") from None


def _check_version(cx: sqlite3.Connection, path: Path, schema: Schema) -> int:
    """The file's schema version, if this program knows it."""
    try:
        row = cx.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    except sqlite3.OperationalError:
        row = None
    if row is None:
        raise LedgerError(f"{path} is not a {schema.kind} of this program.")
    version = int(row[0])
    if not schema.oldest <= version <= schema.version:
        raise LedgerError(
            f"{path} has schema version {version}; this program reads {schema.oldest} to "
            f"{schema.version}. Read it with the version that wrote it."
        )
    return version
