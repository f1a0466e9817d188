"""The ledger's file: one writer, many readers, older versions, strange files, crashes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_calls import finish_one, states

from fleet.errors import LedgerError, StorageError
from fleet.ledger.database import has_writer, open_reader
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.states import RunState

ROOT = Path(__file__).resolve().parents[3]


def test_one_writer(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=f"writer already .process {os.getpid()}"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_living_writer_is_seen(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert has_writer(path)
    ledger.close()
    assert not has_writer(path)
    assert not has_writer(tmp_path / "none.sqlite")


def test_readers_cannot_write(ledger: Ledger, tmp_path: Path) -> None:
    cx = open_reader(tmp_path / "ledger.sqlite")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        cx.execute("DELETE FROM runs")
    cx.close()


def test_another_schema_version_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    cx = sqlite3.connect(tmp_path / "ledger.sqlite")
    cx.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    cx.commit()
    cx.close()
    with pytest.raises(LedgerError, match="version 99; this program reads 1 to 3"):
        LedgerReader(tmp_path / "ledger.sqlite")


def test_a_ledger_of_version_1_is_read_as_it_is_and_migrated_by_its_writer(
    ledger: Ledger, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.sqlite"
    columns = _columns(path)
    ledger.close()
    cx = sqlite3.connect(path)
    for statement in (
        "DROP TABLE sessions",
        "DROP TABLE trials",
        "DROP TABLE sweeps",
        "DROP INDEX decisions_of_kind",
        "DROP INDEX test_reads",
        "ALTER TABLE attempts DROP COLUMN process_started",
        "ALTER TABLE results DROP COLUMN code_version",
        "UPDATE meta SET value = '1' WHERE key = 'schema_version'",
    ):
        cx.execute(statement)
    cx.commit()
    cx.close()
    with LedgerReader(path) as old:
        assert len(old.runs()) == 18
        assert old.sessions() == []
        assert (old.trials(), old.swept_spec_json("F1")) == ([], None)
    writer = Ledger(path)
    finish_one(writer)
    writer.close()
    assert _columns(path) == columns
    with LedgerReader(path) as migrated:
        assert migrated.meta()["schema_version"] == 3
        assert [row.run for row in migrated.results()] == ["F1-treated-s0"]
        assert [link.kind for link in migrated.decisions()] == ["freeze", "freeze", "test_read"]


def _columns(path: Path) -> dict[str, set[str]]:
    cx = open_reader(path)
    names = [row[0] for row in cx.execute("SELECT name FROM sqlite_master").fetchall()]
    found = {name: {row[1] for row in cx.execute(f"PRAGMA table_xinfo({name})")} for name in names}
    cx.close()
    return found


def test_not_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("hello, this is not a database at all" * 100)
    with pytest.raises(LedgerError, match="cannot be read as a ledger"):
        LedgerReader(tmp_path / "x.sqlite")
    with pytest.raises(LedgerError, match="No ledger"):
        LedgerReader(tmp_path / "y.sqlite")


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    fake = [type("Part", (), {"mountpoint": str(tmp_path), "fstype": "nfs4"})()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: fake)
    with pytest.raises(StorageError, match=f"nfs4 at {tmp_path}.*local disk"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_writer_killed_in_a_transaction_leaves_the_last_whole_state(
    tmp_path: Path, clock: Any, make_plan: Callable[..., Any]
) -> None:
    path = tmp_path / "ledger.sqlite"
    writer = Ledger(path, clock=clock)
    writer.record_plan(make_plan("F1"), {})
    writer.close()
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from fleet.ledger.database import transaction
        from fleet.ledger.writer import Ledger
        from fleet.states import RunState
        ledger = Ledger(Path(sys.argv[1]))
        ledger.begin_attempt("a1", mission="F1", job="j", rank=0, host="h", pid=1)
        ledger.lease("a1")
        with transaction(ledger._cx):
            ledger._inside.move("F1-treated-s0", RunState.RUNNING, "", "a1")
            ledger._cx.execute("DELETE FROM missions WHERE 0")
            print("inside", flush=True)
            time.sleep(60)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "inside"
    with LedgerReader(path) as view:
        assert states(view, "F1-s0") == {RunState.LEASED}, "readers see only what is committed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    again = Ledger(path, clock=lambda: time.time())
    with LedgerReader(path) as view:
        assert states(view, "F1-s0") == {RunState.LEASED}
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
    again.begin_attempt("a2", mission="F1", job="j", rank=0, host="h", pid=2)
    lease = again.lease("a2")
    assert lease is not None
    assert (lease.pack, lease.tries) == ("F1-s0", 2)
    again.close()
