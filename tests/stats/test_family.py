"""The family of arms x missions against scipy's adjustment and intervals made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gate_cases import CASES, run, table_of
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from stats import naive
from stats.errors import StatsError
from stats.family import counted, interval_at, standings
from stats.gates import parse_gate
from stats.inference import EXACT
from stats.twoway import exact_bound
from stats.verdict import MissionPlan, ParityRule, judge, judge_family

GATE = run(CASES["superiority"].gate(), CASES["superiority"].table("PASS"))
P = [0.001, 0.2, 0.012, 0.031, 0.9, 0.012]
PLACES = [("A", "new"), ("A", "newer"), ("B", "x"), ("C", "x"), ("D", "x"), ("E", "x")]


def test_several_arms_of_a_mission_each_have_a_p_value():
    found = standings(PLACES, P, [GATE] * 6, q=0.05)
    assert [place.p_bh for place in found] == pytest.approx(
        false_discovery_control(P, method="bh").tolist()
    )
    assert [place.p_by for place in found] == pytest.approx(
        false_discovery_control(P, method="by").tolist()
    )
    assert [place.p_bh for place in found] == pytest.approx(naive.benjamini_hochberg(P))
    assert found[0].family == ("A/new", "A/newer", "B", "C", "D", "E")
    assert counted(found[0].family) == "6 arms of missions"
    assert counted(("A", "B")) == "2 missions"
    chosen = [place.selected for place in found]
    assert chosen == [p <= 0.05 for p in false_discovery_control(P)]
    level = 1 - sum(chosen) * 0.05 / len(P)
    for place in found:
        if not place.selected:
            assert place.fcr_interval is None
            continue
        half = student.ppf(0.5 + level / 2, GATE.df) * GATE.standard_error
        assert place.fcr_interval.level == pytest.approx(level)
        assert place.fcr_interval.low == pytest.approx(GATE.estimate - half, rel=1e-9)
        assert place.fcr_interval.high == pytest.approx(GATE.estimate + half, rel=1e-9)


def test_the_exact_bound_is_adjusted_too():
    ones, zeros = np.ones((4, 200)), np.zeros((4, 200))
    gate = parse_gate(
        {"id": "g", "kind": "superiority", "metric": "em", "treatment": "t", "versus": "c"}
    )
    found = run(gate, table_of({"em": {"t": ones, "c": zeros}}))
    assert found.interval.method == EXACT
    wider = interval_at(found, 0.99)
    assert wider.low == pytest.approx(1 - 2 * exact_bound(200, 0.99))
    assert wider.high == 1.0
    assert interval_at(found, 0.95).low == pytest.approx(found.interval.low)
    assert interval_at(replace(found, interval=None), 0.99) is None


def verdict(mission, arm, effect):
    rng = np.random.default_rng(0)
    control = rng.normal(size=(4, 40))
    noise = 0.3 * rng.normal(size=(4, 40))
    gate = parse_gate(
        {"id": "g", "kind": "superiority", "metric": "em", "treatment": arm, "versus": "c",
         "primary": True}
    )  # fmt: skip
    plan = MissionPlan(
        mission=mission,
        hypothesis="better",
        estimand="difference",
        seeds=(0, 1, 2, 3),
        num_examples_min=2,
        gates=(gate,),
        parity=ParityRule(pairs=()),
    )
    table = table_of({"em": {arm: control + effect + noise, "c": control}})
    return judge(plan, table, {}, rng_seed=1, resamples=50)


def test_judge_family_holds_several_arms_of_one_mission():
    verdicts = [verdict("A", "small", 0.0), verdict("A", "large", 0.5), verdict("B", "large", 0.4)]
    judged = judge_family(verdicts)
    assert [found.treatment for found in judged] == ["small", "large", "large"]
    assert judged[0].family.family == ("A/large", "A/small", "B")
    adjusted = false_discovery_control([found.p_value for found in verdicts])
    assert [found.family.p_bh for found in judged] == pytest.approx(adjusted.tolist())
    assert judged[1].verdict == "PROMOTE"
    with pytest.raises(StatsError, match="stands twice"):
        judge_family([verdicts[0], verdicts[0]])
