"""A disk that is full: a tmpfs of 4 MiB, and a limit on file sizes; no Ray.

The writer says StorageError, what was committed stays, and with space it goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILL = """
import json, resource, sqlite3, subprocess, sys
from pathlib import Path

from fake_catalog import fake_spec

from fleet.errors import StorageError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Point
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign

folder, way = Path(sys.argv[1]), sys.argv[2]
if way == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
plan = plan_campaign([fake_spec("F1")], run_id="r", profile="laptop", code_version="c")
ledger = Ledger(folder / "ledger.sqlite")
ledger.record_plan(plan, {})
ballast = folder / "ballast"
if way == "tmpfs":
    ballast.write_bytes(bytes(3_000_000))
else:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
batch = [Point(run="F1-plain-s0", step=step, name="loss", value=0.5) for step in range(500)]
batches, error = 0, ""
while not error:
    try:
        ledger.log_points(batch)
        batches += 1
    except StorageError as full:
        error = str(full)
ledger.close()


def look():
    cx = sqlite3.connect(f"file:{folder}/ledger.sqlite?mode=ro", uri=True)
    points = cx.execute("SELECT count(*) FROM metrics").fetchone()[0]
    check = cx.execute("PRAGMA integrity_check").fetchone()[0]
    cx.close()
    return points, check


full = look()
if way == "tmpfs":
    ballast.unlink()
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
ledger = Ledger(folder / "ledger.sqlite")
ledger.reopen("s2")
ledger.log_points(batch)
ledger.checkpoint()
ledger.close()
freed = look()
with LedgerReader(folder / "ledger.sqlite") as reader:
    kinds = [link.kind for link in reader.decisions()]
print(json.dumps([batches, error, full, freed, kinds]))
"""


def fill(folder: Path, way: str, *before: str) -> Any:
    done = subprocess.run(
        [*before, sys.executable, "-c", FILL, str(folder), way],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'fleet'}"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def own_mounts() -> bool:
    """Whether this user may mount a tmpfs in a name space of its own."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("way", ["tmpfs", "limit"])
def test_what_was_committed_stays_and_space_is_all_it_needs(tmp_path: Path, way: str) -> None:
    before = ()
    if way == "tmpfs":
        if not own_mounts():
            pytest.skip("no mount name spaces for this user")
        before = ("unshare", "-rm")
    batches, error, full, freed, kinds = fill(tmp_path, way, *before)
    assert batches > 0
    assert "refused a write" in error
    assert full == [batches * 500, "ok"]
    assert freed == [(batches + 1) * 500, "ok"]
    assert kinds == ["freeze", "resume"]
