"""The driver's lock: one at a time, gone with its process, and the heartbeat beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet.driver.driver_lock import drive, driver_of
from fleet.errors import UsageError
from fleet.settings import RunPaths

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from fleet.driver.driver_lock import drive
from fleet.settings import RunPaths
with drive(RunPaths(root=Path(sys.argv[1])), command="launch") as lock:
    print(lock.session, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(root=tmp_path)


def other(paths: RunPaths) -> tuple[subprocess.Popen[str], str]:
    """Another process that drives the run."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(paths.root)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def test_a_second_driver_is_refused_and_told_who_drives(paths: RunPaths) -> None:
    child, session = other(paths)
    try:
        started = time.monotonic()
        with (
            pytest.raises(UsageError, match=rf"driven already: process {child.pid} on ") as refused,
            drive(paths, command="resume"),
        ):
            pass
        assert time.monotonic() - started < 2
        assert "since" in str(refused.value)
        assert refused.value.go_on.startswith("python fleet.py watch")
        driver = driver_of(paths)
        assert driver is not None
        assert (driver.pid, driver.session, driver.alive) == (child.pid, session, True)
    finally:
        child.kill()
        child.communicate()


def test_a_killed_driver_is_gone_at_once_and_its_session_is_remembered(paths: RunPaths) -> None:
    assert driver_of(paths) is None
    child, session = other(paths)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    driver = driver_of(paths)
    assert driver is not None
    assert (driver.pid, driver.alive) == (child.pid, False)
    with drive(paths, command="resume") as lock:
        assert lock.earlier == (session,)
        now = driver_of(paths)
        assert now is not None
        assert now.alive
        before = now.seen
        time.sleep(0.02)
        lock.beat()
        assert driver_of(paths).seen > before  # type: ignore[union-attr]
    assert not driver_of(paths).alive  # type: ignore[union-attr]


def test_a_lock_without_its_first_line_is_no_error(paths: RunPaths) -> None:
    paths.driver_lock.write_text("")
    assert driver_of(paths).alive is False  # type: ignore[union-attr]
    paths.driver_lock.write_text(json.dumps({"pid": 1}))
    assert driver_of(paths).pid == 0  # type: ignore[union-attr]
    with drive(paths, command="launch"):
        assert driver_of(paths).pid == os.getpid()  # type: ignore[union-attr]
