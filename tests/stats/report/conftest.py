"""One judged run with every verdict, and its written report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stats.gates import parse_gate
from stats.report import MissionInfo, ReportContext, write_report
from stats.scores import ScoreTable
from stats.verdict import ArmCost, MissionPlan, MissionVerdict, ParityRule, judge, judge_family

EVIL = "<script>alert('x')</script>"


def mission(name, table, *, withhold=None, leak=0, new="new_method", **more):
    """Judges one table with a superiority gate and a bound."""
    gates = (
        parse_gate(
            {"id": "main", "kind": "superiority", "metric": "em", "treatment": new,
             "versus": "old", "min_point": 0.015, "primary": True}
        ),
        parse_gate(
            {"id": "level", "kind": "bound", "metric": "em", "treatment": new,
             "lower": 0.1, "required": False}
        ),
    )  # fmt: skip
    plan = MissionPlan(
        mission=name,
        hypothesis=f"The new method wins {EVIL}",
        estimand="difference",
        seeds=(0, 1, 2, 3, 4),
        num_examples_min=1,
        gates=gates,
        parity=ParityRule(pairs=((new, "old"),)),
        withhold=withhold,
    )
    costs = {
        arm: ArmCost(arm=arm, trainable_params=100, adapter_params=100, forward_flops=1e6)
        for arm in (new, "old")
    }
    leaks = {"names": leak}
    return judge(plan, table, costs, rng_seed=1, resamples=300, leak_report=leaks, **more)


def context(**changes):
    """Where the run came from."""
    settings = {
        "run_id": "run-1",
        "profile": "laptop",
        "command": "python fleet.py launch --run-id run-1",
        "commit": "0123456789abcdef",
        "dirty": False,
        "wall_time_s": 75.0,
        "hardware": {"CPU": "two cores"},
        "versions": {"numpy": np.__version__},
        "missions": {"A": MissionInfo(title="First", claim=EVIL, spec_digest="ab" * 32)},
    }
    return ReportContext(**{**settings, **changes})


@dataclass(frozen=True)
class Run:
    """Judged missions; no test changes them."""

    verdicts: list[MissionVerdict]
    tables: dict[str, ScoreTable]


@pytest.fixture(scope="session")
def run(make_table, make_pair):
    rng = np.random.default_rng(0)
    tables = {}
    for name, effect in (("A", 0.3), ("B", 0.0), ("C", -0.3), ("D", 0.3), ("E", 0.3)):
        new, old = make_pair(rng, num_examples=80, effect=effect)
        tables[name] = make_table({"new_method": new, "old": old, "third": old})
    verdicts = [
        mission("A", tables["A"]),
        mission("B", tables["B"]),
        mission("C", tables["C"]),
        mission("D", tables["D"], leak=3),
        mission("E", tables["E"], withhold="smoke profile"),
    ]
    return Run(judge_family(verdicts), tables)


@pytest.fixture(scope="session")
def written(run, tmp_path_factory) -> Path:
    """Folder of the report; read only."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, run.verdicts, run.tables, context())
    return folder


@pytest.fixture(scope="session")
def evil():
    return EVIL


@pytest.fixture(scope="session")
def judged():
    return mission


@pytest.fixture(scope="session")
def make_context():
    return context
