"""The worker's loop against a real ledger, without Ray; it must agree with the local runner."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_catalog import FakeMission
from worker_bench import Bench

from fleet.errors import StorageError
from fleet.judging.stats_actor import StatsService
from fleet.judging.verdicts import verdict_digest
from fleet.ledger.writer import Ledger
from fleet.monitor.snapshot import take
from fleet.states import RunState
from missions.local import run_local
from stats.verdict import judge_family


@pytest.fixture
def bench(tmp_path: Path):
    made: list[Bench] = []

    def make(**params: Any) -> Bench:
        made.append(Bench(tmp_path, **params))
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_agrees_with_the_local_runner_bit_for_bit(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    fleet = bench()
    fleet.worker().run()
    assert set(fleet.states().values()) == {RunState.DONE}
    local = run_local(FakeMission("F1"), fleet.spec, tmp_path / "local")
    ours = StatsService(str(fleet.root)).judge("F1")
    assert ours["scores_digest"] == local.scores.digest()
    assert ours == local.verdict.to_dict()
    family = [verdict.to_dict() for verdict in judge_family([local.verdict])]
    assert verdict_digest(StatsService(str(fleet.root)).judge_family([ours])) == verdict_digest(
        family
    )


def test_scalars_extras_and_timings_are_kept(bench: Callable[..., Bench]) -> None:
    fleet = bench()
    fleet.worker().run()
    assert fleet.reader.last_points("F1")["F1-plain-s2"][0] == 2
    folders = {path.parent.name for path in fleet.root.glob("tensorboard/F1/*/events.*")}
    assert len(folders) == 9
    assert "treated-s0" in folders
    kinds = [extra["is"] for extra in fleet.reader.extras("F1")]
    assert kinds == ["table", "figure"]
    stages = {timing.stage for timing in fleet.reader.timings()}
    assert {"startup", "prepare", "train", "evaluate", "extras"} <= stages
    figures = json.loads(fleet.reader.results("F1")[0].figures_json)
    assert figures["never_varied"] is None, "a diagnostic that is NaN is null, not a crash"


def test_a_pack_that_raises_is_recorded_and_the_others_go_on(bench: Callable[..., Bench]) -> None:
    fleet = bench(fail="train", fail_seed=1)
    fleet.worker().run()
    states = fleet.states()
    failed = {run for run, state in states.items() if state is RunState.FAILED}
    assert failed == {"F1-treated-s1", "F1-plain-s1", "F1-extra-s1"}
    assert all(state is RunState.DONE for run, state in states.items() if run not in failed)
    row = next(row for row in fleet.reader.runs() if row.run == "F1-plain-s1")
    assert "RuntimeError: the fake's train was told to fail at seed 1" in row.reason
    assert row.traceback is not None
    assert "fake_catalog.py" in row.traceback
    verdict = fleet.judge()
    assert verdict["verdict"] == "INVALID"
    assert "F1-treated-s1 is FAILED" in verdict["reasons"][0]


def test_one_run_that_raises_in_evaluate_fails_alone(bench: Callable[..., Bench]) -> None:
    fleet = bench(fail="evaluate", fail_seed=2)
    fleet.worker().run()
    failed = [run for run, state in fleet.states().items() if state is RunState.FAILED]
    assert failed == ["F1-treated-s2"]
    assert fleet.judge()["verdict"] == "INVALID"


def test_non_finite_scores_are_named_so(bench: Callable[..., Bench]) -> None:
    fleet = bench(fail="nonfinite", fail_seed=0)
    fleet.worker().run()
    rows = [row for row in fleet.reader.runs() if row.state is RunState.FAILED]
    assert len(rows) == 3
    assert all(row.reason.startswith("nonfinite: evaluate: NonFiniteScoreError") for row in rows)


def test_a_mission_that_cannot_prepare_fails_whole(bench: Callable[..., Bench]) -> None:
    fleet = bench(fail="prepare")
    fleet.worker().run()
    assert set(fleet.states().values()) == {RunState.FAILED}
    assert "prepare: RuntimeError" in str(fleet.reader.missions()[0].error)
    verdict = fleet.judge()
    assert verdict["verdict"] == "INVALID"
    assert verdict["scores_digest"], "even an empty table has a digest"


def test_failed_extras_are_told_but_do_not_touch_the_verdict(bench: Callable[..., Bench]) -> None:
    fleet = bench(fail="extras")
    fleet.worker().run()
    assert set(fleet.states().values()) == {RunState.DONE}
    assert "extras" in fleet.reader.events(level="error")[0].text
    assert fleet.judge()["verdict"] != "INVALID"


def test_a_leak_is_invalid(bench: Callable[..., Bench]) -> None:
    fleet = bench(leak=3)
    fleet.worker().run()
    verdict = fleet.judge()
    assert verdict["verdict"] == "INVALID"
    assert "found 3 test items" in verdict["reasons"][0]


def test_a_stop_in_training_cancels_and_does_not_fail(bench: Callable[..., Bench]) -> None:
    fleet = bench(pack_s=30)
    started = time.monotonic()
    asking = threading.Timer(0.5, fleet.ledger.request_stop, ("F1", "SIGINT"))
    asking.start()
    fleet.worker().run()
    asking.join()
    assert time.monotonic() - started < 15
    states = fleet.states()
    assert {state for run, state in states.items() if run.endswith("s0")} == {RunState.CANCELLED}
    assert RunState.FAILED not in states.values()
    assert fleet.reader.events(level="error") == []


def test_a_worker_whose_ledger_is_gone_says_so(bench: Callable[..., Bench]) -> None:
    fleet = bench()

    class Broken(Ledger):
        def lease(self, attempt: str) -> None:
            raise StorageError("disk full")

    broken = Broken.__new__(Broken)
    broken.__dict__ = fleet.ledger.__dict__
    with pytest.raises(StorageError, match="disk full"):
        fleet.worker(broken).run()


def test_a_successor_takes_over_where_the_first_one_died(bench: Callable[..., Bench]) -> None:
    fleet = bench()
    fleet.ledger.begin_attempt("dead", mission="F1", job="job-1", rank=0, host="h", pid=1)
    lease = fleet.ledger.lease("dead")
    assert lease is not None
    fleet.ledger.start_pack("dead", lease.pack)
    fleet.worker().run()
    assert set(fleet.states().values()) == {RunState.DONE}
    pack = next(row for row in fleet.reader.packs() if row.pack == lease.pack)
    assert pack.tries == 2
    assert any("died" in event.text for event in fleet.reader.events(level="warning"))


def test_a_snapshot_tells_the_states(bench: Callable[..., Bench]) -> None:
    fleet = bench(fail="train", fail_seed=1)
    before = take(fleet.reader, now=time.time())
    assert before.missions[0].done == 0
    assert not before.over
    fleet.worker().run()
    view = take(fleet.reader, now=time.time()).missions[0]
    assert (view.done, view.failed, view.total) == (6, 3, 9)
    assert view.arms[0].states == ("DONE", "FAILED", "DONE")


def test_a_worker_that_finds_nothing_more_to_do_was_not_stopped(
    bench: Callable[..., Bench],
) -> None:
    fleet = bench()
    fleet.worker().run()
    assert [row.outcome for row in fleet.reader.attempts()] == ["left"]


def test_a_worker_that_was_told_to_stop_says_so(bench: Callable[..., Bench]) -> None:
    fleet = bench(pack_s=30)
    threading.Timer(0.5, fleet.ledger.request_stop, ("F1", "enough")).start()
    fleet.worker().run()
    assert [row.outcome for row in fleet.reader.attempts()] == ["stopped"]
    assert {row.reason for row in fleet.reader.runs() if row.reason} == {"enough"}
