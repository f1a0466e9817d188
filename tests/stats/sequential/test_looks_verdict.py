"""Looks inside a whole verdict."""

from __future__ import annotations

import numpy as np

import stats
from stats.gates import parse_gate
from stats.sequential.looks import LooksConfig
from stats.verdict import MissionPlan, ParityRule, judge, judge_family


def test_a_p_value_that_underflows_to_zero_is_the_strongest_not_a_missing_one():
    rng = np.random.default_rng(0)
    old_SN = 0.3 + 0.02 * rng.normal(size=(5, 2000))
    new_SN = old_SN + 0.5 + rng.normal(0, 0.1, 2000) + 0.02 * rng.normal(size=(5, 2000))
    table = stats.as_scores({"new": new_SN, "old": old_SN}, metric="em")
    gate = parse_gate(
        {"id": "g", "kind": "superiority", "metric": "em", "treatment": "new", "versus": "old",
         "primary": True}
    )  # fmt: skip
    plan = MissionPlan(
        mission="m",
        hypothesis="h",
        estimand="e",
        seeds=tuple(int(seed) for seed in table.seeds),
        num_examples_min=1,
        gates=(gate,),
        parity=ParityRule(tolerance=0.05, pairs=()),
        looks=LooksConfig(at_seeds=(3, 4, 5)),
    )
    verdict = judge(plan, table, {}, rng_seed=0, resamples=20)
    assert verdict.gates[0].p_value == 0.0
    assert verdict.look is not None
    assert verdict.look.crossed
    assert judge_family([verdict])[0].verdict == "PROMOTE"
