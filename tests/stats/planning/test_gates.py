"""Plans of gates: pilots, planning values, what cannot be planned."""

from __future__ import annotations

import numpy as np
import pytest

from stats.gates import parse_gate
from stats.planning.gates import PLANNING_VALUES, Budget, pilot_of, plan_gate
from stats.power import expected_error, mde, power_curve, power_of
from stats.scores import ScoreTable


def gate(**changes):
    return parse_gate(
        {
            "id": "g",
            "kind": "superiority",
            "metric": "em",
            "treatment": "t",
            "versus": "c",
            "primary": True,
            "min_point": 0.015,
            **changes,
        }
    )


def table(gain=0.02, seeds=4, examples=300, *, metric="em", scale=1.0):
    rng = np.random.default_rng(3)
    easy = rng.random(examples)
    parts = []
    for arm, add in (("t", gain), ("c", 0.0)):
        for seed in range(seeds):
            hit = rng.random(examples) < np.clip(easy + add, 0, 1)
            parts.append(
                ScoreTable.from_columns(
                    arm=arm,
                    seed=seed,
                    example_id=[f"e{at:04d}" for at in range(examples)],
                    metric=metric,
                    value=scale * hit.astype(float),
                )
            )
    return ScoreTable.concat(parts)


def test_the_design_pages_figures():
    found = [
        round(100 * mde(PLANNING_VALUES, *size), 1)
        for size in ((5, 1000), (5, 5000), (10, 5000), (20, 1000))
    ]
    assert found == [2.7, 1.6, 1.1, 1.7]


def test_without_a_pilot_the_stated_values_are_used_and_named():
    plan = plan_gate(gate(), Budget(seeds=5, examples=1000), None)
    assert plan.decides == "no"
    assert "no pilot" in plan.source
    assert plan.mde == pytest.approx(0.027, abs=5e-4)
    error, df = expected_error(PLANNING_VALUES, 5, 1000)
    assert plan.test_power == pytest.approx(power_of(0.015, error, df), abs=1e-6)
    assert plan.pass_power < plan.test_power
    best = Budget(seeds=plan.cheapest_seeds, examples=plan.cheapest_examples)
    again = plan_gate(gate(), best, None)
    assert again.decides == "yes"
    fewer = Budget(seeds=best.seeds, examples=best.examples - 50)
    assert plan_gate(gate(), fewer, None).decides == "no"


def test_what_cannot_be_planned_says_so():
    bound = parse_gate({"id": "b", "kind": "bound", "metric": "em", "treatment": "t", "upper": 0.3})
    plan = plan_gate(bound, Budget(seeds=5, examples=1000), None)
    assert (plan.decides, plan.mde) == ("unknown", None)
    assert "no pilot" in plan.text
    point = parse_gate(
        {
            "id": "b",
            "kind": "bound",
            "metric": "em",
            "treatment": "t",
            "upper": 0.3,
            "decide_on": "point",
        }
    )
    assert plan_gate(point, Budget(seeds=5, examples=1000), None).decides == "no test"
    budget = Budget(seeds=5, examples=300)
    absent = pilot_of(gate(metric="f1"), table(), source="p", examples=300)
    assert "No scores" in plan_gate(gate(metric="f1"), budget, absent).text
    same = pilot_of(gate(versus="t"), table(), source="p", examples=300)
    assert plan_gate(gate(versus="t"), budget, same).decides == "unknown"


def test_without_pilot_and_alternative_there_is_an_mde_and_no_answer():
    plan = plan_gate(gate(min_point=0.0), Budget(seeds=5, examples=1000), None)
    assert (plan.decides, plan.test_power, plan.cheapest_seeds) == ("unknown", None, None)
    assert plan.mde == pytest.approx(0.027, abs=5e-4)
    assert "states no min_point" in plan.text


@pytest.mark.parametrize("with_pilot", [False, True])
@pytest.mark.parametrize("min_point", [0.0, 0.015])
def test_one_seed_cannot_be_tested(min_point, with_pilot):
    config = gate(min_point=min_point)
    pilot = pilot_of(config, table(), source="p", examples=300) if with_pilot else None
    plan = plan_gate(config, Budget(seeds=1, examples=1000), pilot)
    assert (plan.decides, plan.mde, plan.needs_true) == ("no", None, None)
    assert (plan.test_power, plan.pass_power, plan.refute_power) == (None, None, None)
    assert "one seed cannot be tested" in plan.text
    assert "detects" not in plan.text
    two = plan_gate(config, Budget(seeds=2, examples=1000), pilot)
    assert two.mde is not None
    assert plan.cheapest_seeds == two.cheapest_seeds


def test_declared_clusters_need_a_pilot():
    text = "unknown: items come by document, a pilot is needed"
    for config in (gate(), gate(min_point=0.0)):
        plan = plan_gate(config, Budget(seeds=5, examples=2000, clusters="document"), None)
        assert (plan.decides, plan.text) == ("unknown", text)
        assert (plan.mde, plan.units, plan.test_power, plan.components) == (None,) * 4
        alone = plan_gate(config, Budget(seeds=5, examples=2000, clusters="independent"), None)
        assert alone.units == 2000
        one = plan_gate(config, Budget(seeds=1, examples=2000, clusters="document"), None)
        assert "one seed cannot be tested" in one.text
    pilot = pilot_of(gate(), table(), source="p", examples=3000)
    plan = plan_gate(gate(), Budget(seeds=5, examples=6000, clusters="document"), pilot)
    assert plan.units == 600


def test_one_seed_of_a_gate_that_needs_no_test():
    exact = parse_gate({"id": "x", "kind": "exact", "treatment": "t", "versus": "c"})
    assert plan_gate(exact, Budget(seeds=1, examples=1000), None).decides == "no test"
    bound = parse_gate({"id": "b", "kind": "bound", "metric": "em", "treatment": "t", "upper": 0.3})
    plan = plan_gate(bound, Budget(seeds=1, examples=1000), None)
    assert plan.decides == "no"
    assert "one seed cannot be tested" in plan.text


def test_a_pilots_own_size_gives_the_gates_own_mde():
    pilot = pilot_of(gate(), table(), source="run x", examples=300)
    plan = plan_gate(gate(), Budget(seeds=4, examples=300), pilot)
    # Negative estimates of a component count as zero, so the two may differ a little.
    assert plan.mde == pytest.approx(pilot.gate.mde, rel=0.1)
    assert (plan.units, plan.scale, plan.source) == (300, "fraction", "run x")
    assert (plan.alternative, plan.alternative_is) == (0.015, "the gate's min_point")
    larger = plan_gate(gate(), Budget(seeds=10, examples=30_000), pilot)
    assert larger.units == 30_000
    assert larger.decides == "yes"


def test_costly_runs_move_the_plan_to_fewer_seeds():
    pilot = pilot_of(gate(), table(), source="p", examples=300)
    cheap = plan_gate(gate(), Budget(seeds=4, examples=300, run_cost=10), pilot)
    dear = plan_gate(gate(), Budget(seeds=4, examples=300, run_cost=100_000), pilot)
    assert dear.cheapest_seeds < cheap.cheapest_seeds
    assert dear.cheapest_examples > cheap.cheapest_examples


def test_a_pilot_on_the_failing_side_plans_the_refutation():
    worse = gate(min_point=0.0)
    pilot = pilot_of(worse, table(gain=-0.1), source="p", examples=300)
    plan = plan_gate(worse, Budget(seeds=4, examples=300), pilot)
    assert plan.alternative_is == "the pilot's estimate"
    assert plan.refute_power > 0.9
    assert plan.decides == "yes"
    assert "refuted" in plan.text


def test_non_inferiority_is_planned_for_no_difference():
    config = parse_gate(
        {
            "id": "n",
            "kind": "non_inferiority",
            "metric": "em",
            "treatment": "t",
            "versus": "c",
            "margin": 0.01,
        }
    )
    pilot = pilot_of(config, table(gain=0.0), source="p", examples=300)
    plan = plan_gate(config, Budget(seeds=4, examples=300), pilot)
    assert (plan.alternative, plan.alternative_is) == (0.0, "no true difference")
    assert plan.margins == (-0.01,)
    assert plan.decides == "no"


def test_power_curve_rises_with_both():
    curve = power_curve(PLANNING_VALUES, 0.015, seeds=range(2, 12), units=(1000, 5000))
    assert curve.power_LK.shape == (2, 10)
    assert (np.diff(curve.power_LK, axis=1) > 0).all()
    assert (curve.power_LK[1] > curve.power_LK[0]).all()
    at = expected_error(PLANNING_VALUES, 5, 1000)
    assert curve.power_LK[0, 3] == power_of(0.015, *at)


def test_plans_are_plain_json():
    import json

    plan = plan_gate(gate(), Budget(seeds=5, examples=1000), None)
    assert json.loads(json.dumps(plan.to_dict()))["decides"] == "no"
