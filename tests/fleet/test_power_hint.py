"""The dry run's MDE against the figure that the judged gate itself carries."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from fake_catalog import document, fake_spec

from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.power_hint import power_hints
from fleet.stats_actor import StatsService
from fleet.worker import Worker, WorkerJob
from missions.spec import parse_spec


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    runs = tmp_path_factory.mktemp("runs")
    spec = fake_spec("F1", effect=0.05)
    ledger = Ledger(runs / "pilot" / "ledger.sqlite")
    ledger.record_plan(
        plan_campaign([spec], run_id="pilot", profile="laptop", code_version="c"), {}
    )
    job = WorkerJob(
        mission="F1",
        job="j",
        root=str(runs / "pilot"),
        spec_json=spec.model_dump_json(),
        catalog="fake_catalog",
        submitted_at=time.time(),
    )
    Worker(job, ledger, rank=0, device=torch.device("cpu")).run()
    verdict = StatsService(str(runs / "pilot")).judge("F1", 200)
    ledger.decide("verdict", verdict)
    ledger.close()
    return runs, verdict


def planned(**changes: object):
    spec = parse_spec({**document("F1"), **changes}, "test")
    return plan_campaign([spec], run_id="next", profile="laptop", code_version="c").works


def test_the_same_size_gives_the_gates_own_figure(judged: tuple[Path, dict]) -> None:
    runs, verdict = judged
    hint = power_hints(planned(), runs)["F1"]
    assert hint.mde == pytest.approx(verdict["gates"][0]["mde"], rel=0.05)
    assert (hint.seeds, hint.units, hint.source) == (3, 200, "pilot")


def test_more_seeds_and_items_detect_less(judged: tuple[Path, dict]) -> None:
    runs, _ = judged
    small = power_hints(planned(), runs)["F1"]
    large = power_hints(
        planned(seeds=list(range(8)), examples={"train": 1, "dev": 1, "test": 2000}), runs
    )["F1"]
    assert large.units == 2000
    assert large.mde < small.mde / 2


def test_nothing_is_said_without_a_pilot(tmp_path: Path) -> None:
    assert power_hints(planned(), tmp_path) == {}
