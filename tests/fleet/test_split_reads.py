"""Test reads: counted in the chain of a run, and over the runs of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_catalog import fake_spec

from fleet.errors import StorageError
from fleet.judging.split_reads import (
    REGISTER,
    count_on_machine,
    describe_freeze,
    read_register,
    reads_in_run,
    reads_sentence,
    register,
)
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.settings import RunPaths
from fleet.states import RunState
from fleet.workers.job import WorkerJob
from fleet.workers.worker import Worker


def run_fleet(root: Path, spec: Any, *, told: Any = None) -> RunPaths:
    """Runs a fake mission; `told` is the specification that the worker is told, if another."""
    paths = RunPaths(root=root)
    ledger = Ledger(paths.ledger)
    ledger.record_plan(
        plan_campaign([spec], run_id=root.name, profile="laptop", code_version="c"), {}
    )
    job = WorkerJob(
        mission=spec.id,
        job="job-1",
        root=str(root),
        spec_json=(told or spec).model_dump_json(),
        catalog="fake_catalog",
        submitted_at=0.0,
    )
    Worker(job, ledger, rank=0, device=torch.device("cpu")).run()
    ledger.close()
    return paths


def test_reads_are_counted_by_run_and_by_machine(tmp_path: Path) -> None:
    first = run_fleet(tmp_path / "one", fake_spec("F1"))
    with LedgerReader(first.ledger) as reader:
        links = reader.decisions()
    counted = reads_in_run(links, "F1")
    assert counted.count == 9
    assert counted.per_arm == {"extra": 3, "plain": 3, "treated": 3}
    assert counted.first_at is not None
    assert counted.frozen_at <= counted.first_at
    assert "decision 1 froze them by hash, decision 2 is the first read" in describe_freeze(
        links, "F1"
    )
    line = register(first)[0]
    assert register(first) == [line], "a report written again counts nothing twice"
    assert count_on_machine(tmp_path, line).reads == 9

    other_effect = run_fleet(tmp_path / "two", fake_spec("F1", effect=0.5))
    again = register(other_effect)[0]
    assert again.key == line.key, "other arms, the same test items"
    assert again.arms != line.arms
    here = count_on_machine(tmp_path, again)
    assert (here.reads, here.runs) == (18, 2)
    assert "was read 18 times in 2 runs on this machine" in reads_sentence(again, here)

    fewer = fake_spec("F1")
    fewer = fewer.model_copy(update={"examples": fewer.examples.model_copy(update={"test": 50})})
    third = register(run_fleet(tmp_path / "three", fewer))[0]
    assert third.key != line.key, "another test split"
    assert count_on_machine(tmp_path, third).runs == 1


def test_a_worker_with_other_settings_than_the_frozen_ones_sees_no_test_scores(
    tmp_path: Path,
) -> None:
    paths = run_fleet(tmp_path / "r", fake_spec("F1"), told=fake_spec("F1", effect=0.9))
    with LedgerReader(paths.ledger) as reader:
        rows = reader.runs("F1")
        assert {row.state for row in rows} == {RunState.FAILED}
        assert all("LockedSplitError" in row.reason for row in rows)
        assert "its settings changed since they were frozen" in rows[0].reason
        assert reader.results() == []
        assert [link.kind for link in reader.decisions()] == ["freeze"]
    assert register(paths) == [], "what nobody saw is not counted"


def test_a_spoilt_register_is_named(tmp_path: Path) -> None:
    (tmp_path / REGISTER).write_text(json.dumps({"run_id": "x"}) + "\n")
    with pytest.raises(StorageError, match="line 1: not a line of the register"):
        read_register(tmp_path / REGISTER)
