"""What the driver's loop does with groups, sweeps and requests as they end; Ray is not started."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driver_bench import NODE, ONE, DriverBench, FakeSweep
from sweep.test_trial import SWEEP

from fleet.driver import driver_requests, mission_end, requests
from fleet.driver.cancelling import cancel
from fleet.driver.mission_job import MAX_FAILURES, JobThread, torch_backend
from fleet.driver.workforce import note_waits, running_jobs
from fleet.errors import UsageError
from fleet.ledger.reader import LedgerReader
from fleet.policies import Cause
from fleet.states import RunState
from fleet.sweep import stage


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[DriverBench]:
    made = DriverBench(tmp_path)
    yield made
    made.close()


class EndsAtLook(JobThread):
    """A group whose thread ends it between two looks of the loop."""

    def __init__(self, looks: int, **fields: Any) -> None:
        self._looks = looks
        super().__init__(mission="F1", name="g1", job=ONE, started=time.monotonic(), **fields)

    @property
    def ended(self) -> bool:  # type: ignore[override]
        self._looks -= 1
        return self._looks < 0

    @ended.setter
    def ended(self, value: bool) -> None:
        """Set by the dataclass."""


@pytest.mark.parametrize("looks", [0, 1, 2, 3])
def test_a_group_that_ends_while_waits_are_looked_at(bench: DriverBench, looks: int) -> None:
    bench.mission.jobs.append(EndsAtLook(looks))
    bench.group("g2")
    found = note_waits([bench.mission], bench.reader, (NODE,), now=5.0)
    assert [thread.name for thread, _ in found][-1] == "g2"


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_group_is_noted_before_its_mission_is_judged(
    bench: DriverBench, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attempt still holds a pack until `end_job` is told."""
    bench.ledger.begin_attempt("a", mission="F1", job="g1", rank=0, host="here", pid=1)
    bench.ledger.lease("a")
    group = EndsAtLook(looks)
    bench.mission.jobs.append(group)
    asked: list[bool] = []

    def goes_on(*_: Any) -> bool:
        asked.append(group.noted)
        return True

    monkeypatch.setattr(mission_end, "_goes_on", goes_on)
    for _ in range(4):
        mission_end.collect(bench.campaign, bench.reader)
    assert asked
    assert all(asked)
    assert bench.reader.attempts("F1")[0].outcome == Cause.WORKER_DIED


def test_attempts_are_read_once_a_mission(
    bench: DriverBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        bench.group(f"g{number}")
        bench.ledger.begin_attempt(
            f"a{number}", mission="F1", job=f"g{number}", rank=0, host="here", pid=1
        )
    bench.ledger.end_attempt("a4")
    reads: list[str] = []
    before = LedgerReader.attempts

    def attempts(self: LedgerReader, mission: str | None = None) -> Any:
        reads.append(str(mission))
        return before(self, mission)

    monkeypatch.setattr(LedgerReader, "attempts", attempts)
    jobs = running_jobs([bench.mission], bench.reader)
    assert [(job.workers, job.at) for job in jobs] == [(1, ("here",))] * 4 + [(0, ())]
    assert reads == ["F1"]


def test_lent_groups_leave_the_restarts_of_a_mission_alone(
    bench: DriverBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        type(bench.campaign), "start", lambda self, mission, job: started.append(job.name)
    )

    def goes_on() -> bool:
        return mission_end._goes_on(bench.campaign, bench.reader, "F1", bench.mission)

    bench.group("own", ended=True, noted=True)
    for number in range(6):
        bench.group(f"lent{number}", ended=True, noted=True, helps=True, error=RuntimeError("x"))
    assert goes_on()
    for number in range(MAX_FAILURES - 1):
        bench.group(f"again{number}", ended=True, noted=True)
        assert goes_on()
    bench.group("last", ended=True, noted=True)
    assert not goes_on(), "the mission's own groups are counted as before"
    assert started == ["F1"] * MAX_FAILURES


@pytest.fixture
def sweeping(tmp_path: Path) -> Iterator[DriverBench]:
    made = DriverBench(tmp_path, sweep=SWEEP)
    made.mission.sweep = FakeSweep()  # type: ignore[assignment]
    yield made
    made.close()


@pytest.mark.parametrize("outcome", [None, SimpleNamespace()])
def test_a_cancelled_mission_stops_its_sweep_and_holds_its_slots_until_then(
    sweeping: DriverBench, outcome: Any
) -> None:
    mission, fake = sweeping.mission, sweeping.mission.sweep
    assert isinstance(fake, FakeSweep)
    requests.ask(sweeping.paths, "cancel", "F1")
    driver_requests.take(sweeping.campaign, sweeping.reader)
    assert fake.stopped.is_set()
    assert mission.sweeping, "its trials hold their slots until they are gone"
    assert not mission.started
    fake.outcome, fake.ended = outcome, True
    stage.collect(sweeping.campaign, sweeping.reader)
    assert mission.finished_before
    assert not mission.swept, "a choice that nobody confirms is not recorded"
    assert sweeping.reader.swept_spec_json("F1") is None
    assert {row.state for row in sweeping.reader.runs("F1")} == {RunState.CANCELLED}
    assert not sweeping.reader.events(level="error")


def test_a_mission_that_is_tried_again_can_be_cancelled(bench: DriverBench) -> None:
    bench.ledger.decide("verdict", {"mission": "F1", "verdict": "INVALID"})
    order = bench.ledger.cancel_order
    assert "9 open runs" in cancel(bench.reader, order, "F1", "")
    with pytest.raises(UsageError, match="has its verdict already"):
        cancel(bench.reader, order, "F1", "")


@pytest.mark.parametrize(
    ("shared", "gpus", "expected"),
    [(False, 1.0, "gloo"), (True, 0.0, "gloo"), (True, 1.0, "cpu:gloo,cuda:nccl")],
)
def test_a_group_on_gpus_agrees_in_main_memory_too(
    shared: bool, gpus: float, expected: str
) -> None:
    request = replace(ONE.request, gpus=gpus)
    assert torch_backend(replace(ONE, shared=shared, request=request)) == expected
