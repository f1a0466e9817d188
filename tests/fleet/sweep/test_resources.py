"""Trials can never wait for one another for ever: what they hold, how many there are at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_catalog import document

from fleet.errors import UnfitEnvironmentError
from fleet.plan import MissionWork, plan_campaign, select_arms
from fleet.policies import Node
from fleet.settings import LaunchSettings, RunPaths
from fleet.sweep.driving import check_trials, sweep_job
from fleet.sweep.nested import group_scaling
from fleet.sweep.plan_lines import sweep_lines, sweep_plan
from fleet.sweep.resources import NESTED, misfit, trial_resources
from fleet.sweep.tuning import trial_place
from missions.spec import parse_spec

TWO_CPUS = (Node(name="n", cpus=2, memory_mib=8000),)
SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 4,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"treated": {}, "plain": {}},
    "untuned": {"extra": "it has nothing to tune"},
    "rungs": [{"params.training.steps": 2}, {"params.training.steps": 8}],
    "expected_cpu_s": 30,
}


def work_of(concurrency: int = 1, **resources: Any) -> MissionWork:
    asked = {"memory_mib": 256, **resources}
    changed = {**document("F1"), "resources": asked, "sweep": {**SWEEP, "concurrency": concurrency}}
    spec = parse_spec(changed, "test")
    return plan_campaign([spec], run_id="r", profile="laptop", code_version="c").works[0]


def test_a_trial_holds_what_one_worker_holds() -> None:
    work = work_of(concurrency=3)
    asked = trial_resources(work.spec, work.job, TWO_CPUS)
    assert (asked.own, asked.group, asked.at_once) == (work.job.request, None, 2)
    assert asked.job.workers == 2
    assert misfit("F1", asked, TWO_CPUS) == ""


def test_a_trial_that_starts_a_trainer_holds_next_to_nothing_and_few_run_at_once() -> None:
    work = work_of(concurrency=8, workers=2, strategy="ddp")
    nodes = tuple(Node(name=f"n{i}", cpus=2, memory_mib=8000) for i in range(3))
    asked = trial_resources(work.spec, work.job, nodes)
    assert asked.own == NESTED
    assert asked.at_once == 3
    assert misfit("F1", asked, nodes) == ""
    assert asked.job.workers == 6


def test_two_trials_with_a_trainer_each_never_share_room_for_one() -> None:
    """Tune's default, a CPU for each trial, on two CPUs: both trainers would wait for ever."""
    work = work_of(concurrency=2, workers=2, strategy="ddp")
    asked = trial_resources(work.spec, work.job, TWO_CPUS)
    assert (asked.own, asked.at_once) == (NESTED, 1)
    # Nothing of what the group asks for, or a group that fills the node waits for a thousandth.
    assert asked.group is not None
    assert not set(trial_place(asked.own)["bundles"][0]) & set(asked.group.request.as_ray())
    with pytest.raises(UnfitEnvironmentError, match="starts 3 workers of"):
        check_trials([work_of(workers=3, strategy="ddp")], TWO_CPUS)


def test_labels_are_told_to_ray_as_it_reads_them() -> None:
    """In `in(a, b)` Ray takes the space for a part of the word, and no node ever has it."""
    labels = {"zone": "in(a, b)"}
    nodes = (replace(TWO_CPUS[0], labels={"zone": "b"}),)
    packed = work_of(labels=labels)
    place = trial_place(trial_resources(packed.spec, packed.job, nodes).own)
    assert place["bundle_label_selector"] == [{"zone": "in(a,b)"}]
    assert place["bundles"] == [{"CPU": 1.0, "memory": 256.0 * 2**20}]
    grouped = work_of(labels=labels, workers=2, strategy="ddp")
    asked = trial_resources(grouped.spec, grouped.job, nodes)
    assert "bundle_label_selector" not in trial_place(asked.own)
    assert asked.group is not None
    assert group_scaling(asked.group)["label_selector"] == {"zone": "in(a,b)"}


def test_trainers_leave_their_marks_where_every_node_reaches_them(tmp_path: Path) -> None:
    local = LaunchSettings(
        paths=RunPaths(root=tmp_path / "r"),
        profile="laptop",
        command="",
        cpus=1,
        storage="s3://b/f/",
    )
    assert local.train_storage == str(tmp_path / "r" / "train")
    assert replace(local, address="auto").train_storage == "s3://b/f/r/train"
    work = work_of(workers=2, strategy="ddp")
    order = sweep_job(work, replace(local, address="auto"), namespace="n", code_version="c")
    assert order.train_storage == "s3://b/f/r/train"


def test_a_trial_that_no_node_holds_is_refused_before_anything_starts() -> None:
    with pytest.raises(UnfitEnvironmentError, match="F1: a trial of its sweep asks for 4 CPU"):
        check_trials([work_of(cpus=4)], TWO_CPUS)
    check_trials([work_of()], TWO_CPUS)


def test_the_plan_tells_trials_cost_and_ranges() -> None:
    work = work_of()
    assert sweep_lines(work.spec) == [
        "F1 sweep first, on dev: 2 arms x 4 settings (by rung 4 -> 2), 12 trainings, max em, "
        "about 30 CPU s",
        "  treated, plain: params.training.lr 0.0005 to 0.5, logarithmic",
        "  extra: not tuned, it has nothing to tune",
    ]
    plan = sweep_plan(work.spec)
    assert plan is not None
    assert (plan["trials_by_rung"], plan["trainings"]) == ([4, 2], 12)
    assert work.expected_cpu_s == 30


def test_arms_that_are_left_out_leave_the_sweep_too() -> None:
    left = select_arms(work_of().spec, ["treated", "plain"])
    assert left.sweep is not None
    assert left.sweep.untuned == {}
    assert left.withhold_verdict is None
