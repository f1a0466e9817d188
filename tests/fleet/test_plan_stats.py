"""Plans of a budget from pilots: against the judged gate's own figures, and without any."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from fake_catalog import document, fake_spec

from fleet.cli import run
from fleet.errors import ConfigError, FleetError, NotFoundError
from fleet.judging.plan_stats import find_pilot, plan_all, plan_mission
from fleet.judging.stats_actor import StatsService, read_scores
from fleet.ledger.writer import Ledger
from fleet.monitor.power_table import dry_run_line, print_plans
from fleet.plan import plan_campaign
from fleet.settings import RunPaths
from fleet.workers.job import WorkerJob
from fleet.workers.worker import Worker
from missions.spec import parse_spec
from stats.errors import ScoreError


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


def test_a_csv_file_is_a_pilot_as_judge_reads_it(judged: tuple[Path, dict], tmp_path: Path) -> None:
    runs, _ = judged
    paths = RunPaths(root=runs / "pilot")
    table = read_scores(paths, [path.name for path in paths.scores.glob("*.parquet")])
    table.frame.to_csv(tmp_path / "ok.csv", index=False)
    of_run = plan_all([planned()], runs)["F1"].primary
    of_file = plan_all([planned()], tmp_path, pilot=str(tmp_path / "ok.csv"))["F1"].primary
    assert of_file.components == of_run.components
    assert of_file.source == "pilot ok.csv"
    clustered = planned(clusters="document")
    with pytest.raises(ConfigError, match="items come by document, but every item"):
        find_pilot(clustered, str(tmp_path / "ok.csv"), tmp_path)
    table.frame.assign(cluster_id=table.frame["example_id"].str[-1]).to_csv(
        tmp_path / "by_ten.csv", index=False
    )
    found = find_pilot(clustered, str(tmp_path / "by_ten.csv"), tmp_path)
    assert plan_mission(clustered, found).primary.units == 10


@pytest.mark.parametrize(
    ("name", "content", "code", "line"),
    [
        ("g.parquet", b"no", 3, "g.parquet: cannot be read as parquet"),
        ("g.csv", b"", 3, "g.csv: cannot be read as csv"),
        ("g.csv", b"a,b\n1,2\n", 3, "g.csv: No column 'arm'"),
        ("g.txt", b"1", 3, "expected a run (folder or id) or a long table"),
        ("gone.csv", None, 6, "gone.csv': no such file or folder"),
        ("gone", None, 6, "gone': no such file or folder"),
        ("", None, 6, "folder without a run"),
    ],
)
def test_a_broken_pilot_is_one_clear_line(
    name: str,
    content: bytes | None,
    code: int,
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    order = ["plan-stats", "--missions", "A", "--runs-dir", str(tmp_path), "--pilot", str(path)]
    assert run(order) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert line in told.err.splitlines()[0]
    assert "Run id" not in told.err


def test_a_damaged_run_is_passed_over_or_named(judged: tuple[Path, dict], tmp_path: Path) -> None:
    runs, _ = judged
    shutil.copytree(runs / "pilot", tmp_path / "pilot")
    for path in (tmp_path / "pilot" / "scores").glob("*.parquet"):
        path.write_bytes(b"no")
    assert find_pilot(planned(), None, tmp_path) is None
    with pytest.raises(ScoreError, match="cannot be read as Parquet"):
        find_pilot(planned(), "pilot", tmp_path)


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
