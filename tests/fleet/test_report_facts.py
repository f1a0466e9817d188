"""A report without Ray: test reads, clusters and calibration as its ledger shows them."""

from __future__ import annotations

from pathlib import Path

import torch
from fake_catalog import fake_spec

from fleet.judging.stats_actor import StatsService
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.reporting.report import write
from fleet.reporting.report_facts import calibration_fact, clusters_fact
from fleet.settings import RunPaths
from fleet.workers.job import WorkerJob
from fleet.workers.worker import Worker
from stats.calibration.badge import standing
from stats.report import Fact
from stats.verdict import MissionVerdict


def finished(root: Path, **params: object) -> tuple[RunPaths, MissionVerdict]:
    spec = fake_spec("F1", **params).model_copy(update={"clusters": "independent"})
    paths = RunPaths(root=root)
    ledger = Ledger(paths.ledger)
    plan = plan_campaign([spec], run_id=root.name, profile="laptop", code_version="c")
    facts = {
        "command": "python fleet.py launch",
        "commit": "0" * 40,
        "dirty": False,
        "created": "2026-01-02T03:04:05+00:00",
        "hardware": {"cpus": 2},
        "versions": {"python": "3.11"},
        "slots": 2,
    }
    ledger.record_plan(plan, facts)
    job = WorkerJob(
        mission="F1",
        job="job-1",
        root=str(root),
        spec_json=spec.model_dump_json(),
        catalog="fake_catalog",
        submitted_at=0.0,
    )
    Worker(job, ledger, rank=0, device=torch.device("cpu")).run()
    service = StatsService(str(root))
    verdict = service.judge_family([service.judge("F1", 200)])[0]
    ledger.decide("verdict", verdict)
    ledger.close()
    return paths, MissionVerdict.from_dict(verdict)


def test_the_report_counts_reads_and_says_how_it_was_calibrated(tmp_path: Path) -> None:
    paths, verdict = finished(tmp_path / "one")
    page, _ = write(paths, wall_time_s=1.0)
    text = page.read_text(encoding="utf-8")
    assert "F1: 9 in this run" in text
    assert "was read 9 times in 1 run on this machine" in text
    assert "decision 1 froze them by hash, decision 2 is the first read of test scores" in text
    assert "F1 independent: 200 items, each alone" in text
    second, _ = finished(tmp_path / "two")
    page, _ = write(second, wall_time_s=1.0)
    assert "was read 18 times in 2 runs on this machine" in page.read_text(encoding="utf-8")
    undeclared = clusters_fact({"F1": fake_spec("F1")}, [verdict])
    assert undeclared is not None
    assert undeclared.status == "open"


def test_the_calibration_fact_follows_the_badge() -> None:
    fact = calibration_fact()
    assert isinstance(fact, Fact)
    assert fact.answer == standing().text
    assert (fact.status == "yes") == (standing().word == "calibrated")
