"""A launch that is told to stop: SIGTERM to its whole process group, as batch systems do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from fleet.ledger.reader import LedgerReader
from fleet.states import RunState

pytestmark = [pytest.mark.ray, pytest.mark.slow]
HERE = Path(__file__).resolve().parent


def test_sigterm_to_the_group_ends_cleanly(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}"}
    command = [sys.executable, str(HERE / "fake_launch.py"), "launch", "--missions", "F1"]
    command += ["--run-id", "stopped", "--runs-dir", str(tmp_path)]
    command += ["--set", "params.pack_s=200", "--cpus", "1"]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, process_group=0
    )
    told: list[str] = []
    running = threading.Event()

    def listen() -> None:
        assert child.stderr is not None
        for line in child.stderr:
            told.append(line)
            if "F1 running" in line:
                running.set()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        assert running.wait(200), "".join(told)
        time.sleep(1)
        family = psutil.Process(child.pid).children(recursive=True)
        started = time.monotonic()
        os.killpg(child.pid, signal.SIGTERM)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143, "".join(told)
        assert time.monotonic() - started < 45
    finally:
        child.kill()
        child.wait()
        listener.join()
        if child.stderr is not None:
            child.stderr.close()
    assert "Stopped by SIGTERM; finished runs are kept." in "".join(told)
    assert "next: python fleet.py resume stopped" in "".join(told)
    with LedgerReader(tmp_path / "stopped" / "ledger.sqlite") as reader:
        assert {row.state for row in reader.runs()} == {RunState.CANCELLED}
        assert reader.missions()[0].phase == "cancelled"
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
    assert gone
    assert not list(Path("/tmp").glob(f"bf-{child.pid}-*"))
