"""SIGSTOP of a worker: stale, then heard of again; silent for twice as long, replaced.

Beside it, a mission and an arm are cancelled from another terminal while the driver works.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launched import Launched

from fleet import cli
from fleet.ledger.database import is_begun
from fleet.ledger.reader import LedgerReader
from fleet.settings import RunPaths
from fleet.states import RunState

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STALE_S = 5.0


def test_slow_is_not_dead_and_hung_is_replaced(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    paths = RunPaths(root=tmp_path / "hung")
    arguments = ["launch", "--run-id", "hung", "--missions", "F1,F2", "--cpus", "1", "--no-promote"]
    arguments += ["--set", "params.pack_s=11", "--set", "seeds=[0,1]"]
    arguments += ["--set", "F2:depends_on=[F1]"]  # the one slot is F1's
    driver = Launched(tmp_path, *arguments, FAKE_STALE_S=str(STALE_S))

    def held(*states: RunState) -> bool:
        if not is_begun(paths.ledger):
            return False
        with LedgerReader(paths.ledger) as reader:
            return any(row.state in states for row in reader.runs("F1"))

    driver.until("training", lambda: held(RunState.RUNNING))
    where = ["--run-id", "hung", "--runs-dir", str(tmp_path)]
    assert cli.run(["cancel", "F2", "F1:extra", *where]) == 0
    worker = driver.until("the worker", lambda: driver.child("ray::RayTrainWorker"))
    worker.send_signal(signal.SIGSTOP)
    driver.until("stale", lambda: held(RunState.STALE), timeout_s=STALE_S + 10)
    worker.send_signal(signal.SIGCONT)
    driver.until("heard of again", lambda: not held(RunState.STALE), timeout_s=10)
    with LedgerReader(paths.ledger) as reader:
        assert {pack.tries for pack in reader.packs()} <= {0, 1}
        assert not any(event.level == "error" for event in reader.events())
    driver.until("training goes on", lambda: held(RunState.RUNNING))
    worker.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    driver.until("replaced", lambda: not worker.is_running(), timeout_s=2 * STALE_S + 20)
    replaced_s = time.monotonic() - stopped
    record_property("stale_after_s", STALE_S)
    record_property("hung_killed_s", round(replaced_s, 1))
    assert replaced_s > 1.5 * STALE_S
    assert driver.wait() == 0, driver.said
    with LedgerReader(paths.ledger) as reader:
        left = {row.state for row in reader.runs("F1") if row.arm != "extra"}
        assert left == {RunState.DONE}
        gone = [*reader.runs("F2"), *(r for r in reader.runs("F1") if r.arm == "extra")]
        assert {row.state for row in gone} == {RunState.CANCELLED}
        assert sorted(pack.tries for pack in reader.packs("F1")) == [1, 2]
        assert {row.mission: row.phase for row in reader.missions()}["F2"] == "cancelled"
        verdicts = {body["mission"]: body for _, body in reader.bodies("verdict")}
        assert [gate["gate"] for gate in verdicts["F1"]["gates"]] == ["better"]
        assert verdicts["F1"]["verdict"] != "INVALID"
        assert verdicts["F2"]["verdict"] == "INVALID"
        assert any("silent for" in event.text for event in reader.events(level="warning"))
