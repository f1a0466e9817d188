"""SIGSTOP of a worker: stale, then heard of again; silent for twice as long, replaced."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from launched import Launched

from fleet.ledger.reader import LedgerReader
from fleet.settings import RunPaths
from fleet.states import RunState

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STALE_S = 4.0


def test_slow_is_not_dead_and_hung_is_replaced(tmp_path: Path) -> None:
    paths = RunPaths(root=tmp_path / "hung")
    arguments = ["launch", "--run-id", "hung", "--missions", "F1", "--cpus", "1", "--no-promote"]
    arguments += ["--set", "params.pack_s=9"]
    driver = Launched(tmp_path, *arguments, FAKE_STALE_S=str(STALE_S))

    def held(*states: RunState) -> bool:
        if not paths.ledger.is_file():
            return False
        with LedgerReader(paths.ledger) as reader:
            return any(row.state in states for row in reader.runs())

    driver.until("training", lambda: held(RunState.RUNNING))
    worker = driver.until("the worker", lambda: driver.child("ray::RayTrainWorker"))
    worker.send_signal(signal.SIGSTOP)
    driver.until("stale", lambda: held(RunState.STALE), timeout_s=STALE_S + 5)
    worker.send_signal(signal.SIGCONT)
    driver.until("heard of again", lambda: not held(RunState.STALE), timeout_s=5)
    with LedgerReader(paths.ledger) as reader:
        assert {pack.tries for pack in reader.packs()} <= {0, 1}
        assert not any(event.level == "error" for event in reader.events())
    driver.until("training goes on", lambda: held(RunState.RUNNING))
    worker.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    driver.until("replaced", lambda: not worker.is_running(), timeout_s=2 * STALE_S + 10)
    assert time.monotonic() - stopped > 1.5 * STALE_S
    assert driver.wait() == 0, driver.said
    with LedgerReader(paths.ledger) as reader:
        assert {row.state for row in reader.runs()} == {RunState.DONE}
        assert sorted(pack.tries for pack in reader.packs()) == [1, 1, 2]
        assert any("silent for" in event.text for event in reader.events(level="warning"))
