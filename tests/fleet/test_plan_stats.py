"""Plans of a budget from pilots: against the judged gate's own figures, and without any."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from fake_catalog import document, fake_spec

from fleet.errors import FleetError, NotFoundError
from fleet.ledger.writer import Ledger
from fleet.monitor.power_table import dry_run_line, print_plans
from fleet.plan import plan_campaign
from fleet.plan_stats import find_pilot, plan_all, plan_mission
from fleet.settings import RunPaths
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
    return parse_spec({**document("F1"), **changes}, "test")


def test_the_same_size_gives_the_gates_own_figure(judged: tuple[Path, dict]) -> None:
    runs, verdict = judged
    plan = plan_all([planned()], runs)["F1"]
    assert plan.primary.mde == pytest.approx(verdict["gates"][0]["mde"], rel=0.05)
    assert (plan.seeds, plan.primary.units, plan.source) == (3, 200, "run pilot")
    assert "CPU seconds of run pilot" in plan.run_cost_is
    assert [gate.gate for gate in plan.gates] == ["better", "ablated"]
    fewer = plan_all([planned()], runs, required_only=True)["F1"]
    assert [gate.gate for gate in fewer.gates] == ["better"]


def test_more_seeds_and_items_detect_less(judged: tuple[Path, dict]) -> None:
    runs, _ = judged
    larger = planned(seeds=list(range(8)), examples={"train": 1, "dev": 1, "test": 2000})
    small, large = (plan_all([spec], runs)["F1"].primary for spec in (planned(), larger))
    assert large.units == 2000
    assert large.mde < small.mde / 2


def test_looks_cost_power(judged: tuple[Path, dict]) -> None:
    runs, _ = judged
    plain = plan_all([planned()], runs)["F1"].primary
    looked = plan_all([planned(looks={"at_seeds": [2, 3]})], runs)["F1"].primary
    assert looked.mde > plain.mde


def test_a_parquet_file_is_a_pilot_too(judged: tuple[Path, dict], tmp_path: Path) -> None:
    from fleet.stats_actor import read_scores

    runs, _ = judged
    paths = RunPaths(root=runs / "pilot")
    with_files = [path.name for path in paths.scores.glob("*.parquet")]
    path = tmp_path / "scores.parquet"
    read_scores(paths, with_files).to_parquet(path)
    of_run = plan_all([planned()], runs)["F1"].primary
    of_file = plan_all([planned()], tmp_path, pilot=str(path))["F1"]
    assert of_file.primary.components == of_run.components
    assert of_file.primary.source == "pilot scores.parquet"
    assert "assumed" in of_file.run_cost_is
    halved = plan_all([planned()], tmp_path, pilot=str(path), pilot_examples=400)["F1"]
    assert halved.primary.units == 100


def test_a_pilot_is_named_by_id_or_folder(judged: tuple[Path, dict]) -> None:
    runs, _ = judged
    for where in ("pilot", str(runs / "pilot")):
        assert find_pilot(planned(), where, runs).source == "run pilot"
    with pytest.raises(NotFoundError, match="no two complete seeds of mission F2"):
        find_pilot(parse_spec(document("F2"), "test"), "pilot", runs)
    with pytest.raises(NotFoundError, match="no such file"):
        find_pilot(planned(), str(runs / "gone.parquet"), runs)
    with pytest.raises(FleetError, match="gone"):
        find_pilot(planned(), "gone", runs)


def test_without_a_pilot_it_is_said(tmp_path: Path) -> None:
    spec = planned()
    plan = plan_mission(spec, find_pilot(spec, None, tmp_path))
    assert plan.source == "no pilot"
    # A gate without a min_point states no alternative: only what it detects can be said.
    assert plan.primary.decides == "unknown"
    assert "states no min_point" in str(dry_run_line(plan))
    gates = [{**gate, "min_point": 0.015} for gate in document("F1")["gates"]]
    stated = plan_mission(planned(gates=gates), None)
    assert "stated planning values" in stated.primary.source
    assert "cannot decide better" in str(dry_run_line(stated))


def test_declared_clusters_without_a_pilot_are_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = plan_mission(planned(clusters="document"), None)
    said = "unknown: items come by document, a pilot is needed"
    assert dry_run_line(plan) == f"F1 better: {said}"
    print_plans([plan], profile="laptop", power=0.8)
    text = " ".join(capsys.readouterr().out.split())
    assert f"better, ablated: {said}" in text
    assert "stated planning values" not in text


def test_one_seed_is_told_in_the_table_and_in_the_dry_run(
    judged: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, _ = judged
    plans = plan_all([planned(seeds=[0])], runs)
    print_plans(list(plans.values()), profile="laptop", power=0.8)
    text = " ".join(capsys.readouterr().out.split())
    assert "F1 Fake F1: 1 seed x 200 test items" in text
    assert "better: 1 seed x 200: one seed cannot be tested" in text
    assert "this budget cannot decide with 80% power: better" in text
    assert "cannot decide better" in str(dry_run_line(plans["F1"]))
    assert "one seed cannot be tested" in str(dry_run_line(plans["F1"]))


def test_the_table_says_what_cannot_be_decided(
    judged: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, _ = judged
    gates = [{**gate, "min_point": 0.03} for gate in document("F1")["gates"]]
    plans = plan_all([planned(gates=gates)], runs)
    print_plans(list(plans.values()), profile="laptop", power=0.8)
    text = " ".join(capsys.readouterr().out.split())
    assert "F1 Fake F1: 3 seeds x 200 test items" in text
    assert "this budget cannot decide with 80% power: better" in text
    assert "variance from run pilot" in text
