from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stats.deciding import deciding_sizes
from stats.errors import StatsError
from stats.gates import parse_gate
from stats.scores import ScoreTable
from stats.verdict import (
    ArmCost,
    MissionPlan,
    MissionVerdict,
    ParityRule,
    judge,
    judge_family,
)


def superiority(**changes):
    base = {"id": "main", "kind": "superiority", "metric": "em", "treatment": "t", "versus": "c"}
    return parse_gate({**base, "primary": True, **changes})


def plan(*gates, **changes):
    settings = {
        "mission": "M",
        "hypothesis": "t is better",
        "estimand": "difference",
        "seeds": (0, 1, 2, 3, 4),
        "num_examples_min": 10,
        "gates": gates or (superiority(),),
        "parity": ParityRule(pairs=(("t", "c"),)),
    }
    return MissionPlan(**{**settings, **changes})


def costs(treatment=1000, control=1000, flops=(1e6, 1e6)):
    return {
        arm: ArmCost(arm=arm, trainable_params=n, adapter_params=n, forward_flops=f)
        for arm, n, f in (("t", treatment, flops[0]), ("c", control, flops[1]))
    }


@pytest.fixture
def scores(make_table):
    """Treatment better by about 0.3 with clear noise; `effect` moves it."""

    def build(effect=0.3, rng_seed=0, metric="em"):
        rng = np.random.default_rng(rng_seed)
        control = rng.normal(size=(5, 60))
        treatment = control + effect + 0.3 * rng.normal(size=(5, 60))
        return make_table({"t": treatment, "c": control}, metric)

    return build


def verdict_of(table, *gates, costs_=None, leak_report=None, invalid=(), **changes):
    return judge(
        plan(*gates, **changes),
        table,
        costs() if costs_ is None else costs_,
        rng_seed=3,
        resamples=300,
        leak_report=leak_report,
        invalid=invalid,
    )


def test_promote_reject_inconclusive(scores):
    assert verdict_of(scores(0.3)).verdict == "PROMOTE"
    assert verdict_of(scores(-0.3)).verdict == "REJECT"
    found = verdict_of(scores(0.3), superiority(min_point=0.3 + 0.02))
    assert found.verdict in ("INCONCLUSIVE", "REJECT")
    nothing = verdict_of(scores(0.0))
    assert nothing.verdict == "INCONCLUSIVE"
    assert nothing.primary.mde > 0


def test_every_required_gate_must_pass_and_p_is_the_largest(scores):
    second = parse_gate(
        {
            "id": "second",
            "kind": "non_inferiority",
            "metric": "f1",
            "treatment": "t",
            "versus": "c",
            "margin": 0.1,
        }
    )
    good = ScoreTable.concat([scores(0.3), scores(0.0, 1, "f1")])
    found = verdict_of(good, superiority(), second)
    assert found.verdict == "PROMOTE"
    assert found.p_value == max(gate.p_value for gate in found.gates)
    worse = ScoreTable.concat([scores(0.3), scores(-0.5, 1, "f1")])
    assert verdict_of(worse, superiority(), second).verdict == "REJECT"
    reported = second.model_copy(update={"required": False})
    found = verdict_of(worse, superiority(), reported)
    assert found.verdict == "PROMOTE"
    assert found.gates[1].decision == "FAIL"


@pytest.mark.parametrize(
    ("treatment", "control", "flops", "ok"),
    [
        (1050, 1000, (1e6, 1e6), True),
        (1051, 1000, (1e6, 1e6), False),
        (949, 1000, (1e6, 1e6), False),
        (1000, 1000, (1.06e6, 1e6), False),
        (1000, 0, (1e6, 1e6), False),
        (0, 0, (1e6, 1e6), True),
    ],
)
def test_parity_outside_the_tolerance_is_invalid(scores, treatment, control, flops, ok):
    found = verdict_of(scores(), costs_=costs(treatment, control, flops))
    assert found.verdict == ("PROMOTE" if ok else "INVALID")
    if not ok:
        assert found.reasons[0].startswith("parity broken: ")
        assert found.primary.decision == "PASS"


def test_parity_of_unmeasured_arms_and_bytes(scores):
    found = verdict_of(scores(), costs_={"t": costs()["t"]})
    assert found.verdict == "INVALID"
    assert "missing" in found.reasons[0]
    rule = ParityRule(pairs=(("t", "c"),), check_bytes=True)
    assert verdict_of(scores(), parity=rule).verdict == "INVALID"
    off = ParityRule(pairs=(("t", "c"),), check_trainable=False)
    assert verdict_of(scores(), parity=off, costs_=costs(2000)).verdict == "PROMOTE"


def test_what_makes_a_mission_invalid(scores, make_table):
    leaked = verdict_of(scores(), leak_report={"names": 0, "templates": 2})
    assert leaked.verdict == "INVALID"
    assert leaked.reasons == ("leak: check 'templates' found 2 test items among the training data",)
    assert verdict_of(scores(), leak_report={"names": 0}).verdict == "PROMOTE"
    few = verdict_of(scores(), num_examples_min=61)
    assert few.verdict == "INVALID"
    assert "60 test items, but the plan fixed at least 61" in few.reasons[0]
    assert verdict_of(scores(), invalid=("manifest is dirty",)).reasons == ("manifest is dirty",)
    same = make_table({"t": np.ones((5, 60)), "c": np.ones((5, 60))})
    assert verdict_of(same).verdict == "INVALID"
    frame = scores().frame
    holes = verdict_of(ScoreTable(frame.iloc[1:]))
    assert holes.verdict == "INVALID"
    assert "1 of 300 cells" in holes.reasons[0]
    assert holes.p_value is None
    lost_seed = ScoreTable(frame[frame["seed"] != 4])
    assert "planned were [0, 1, 2, 3, 4]" in verdict_of(lost_seed).reasons[0]


def test_withheld_shows_figures_and_problems(scores):
    found = verdict_of(scores(), withhold="smoke profile", costs_=costs(2000))
    assert found.verdict == "WITHHELD"
    assert found.reasons[0] == "verdict withheld: smoke profile"
    assert found.reasons[1].startswith("parity broken")
    assert found.primary.estimate is not None


def test_a_smoke_run_of_one_seed_still_gives_a_verdict(make_table):
    table = make_table({"t": np.zeros((1, 3)), "c": np.ones((1, 3))})
    found = verdict_of(table, seeds=(0,), withhold="smoke", num_examples_min=1)
    assert found.verdict == "WITHHELD"
    assert found.primary.decision == "INCONCLUSIVE"


def test_result_is_bit_identical_whatever_the_order(scores):
    table = scores(0.1)
    rng = np.random.default_rng(0)
    mixed = ScoreTable(table.frame.iloc[rng.permutation(len(table))])
    pieces = ScoreTable.concat(
        [table.select(arms=["c"]), table.select(arms=["t"], seeds=[4, 0]),
         table.select(arms=["t"], seeds=[1, 2, 3])]
    )  # fmt: skip
    first = json.dumps(verdict_of(table).to_dict(), sort_keys=True)
    for other in (mixed, pieces):
        found = verdict_of(other, seeds=(3, 1, 2, 0, 4), leak_report=None)
        assert json.dumps(found.to_dict(), sort_keys=True) == first


def test_results_travel_as_plain_json(scores, make_table):
    bound = parse_gate(
        {"id": "b", "kind": "bound", "metric": "em", "treatment": "t", "upper": 9.0,
         "required": False}
    )  # fmt: skip
    found = judge_family([verdict_of(scores(), superiority(), bound, leak_report={"x": 0})])[0]
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert MissionVerdict.from_dict(json.loads(text)) == found
    same = make_table({"t": np.ones((5, 60)), "c": np.ones((5, 60))})
    empty = verdict_of(same)
    assert MissionVerdict.from_dict(json.loads(json.dumps(empty.to_dict()))) == empty
    assert empty.to_dict()["gates"][0]["interval"] is None
    with pytest.raises(StatsError, match="unknown fields"):
        MissionVerdict.from_dict({**found.to_dict(), "extra": 1})


def test_the_plan_itself_must_make_sense(scores):
    with pytest.raises(StatsError, match="exactly one gate must be primary"):
        verdict_of(scores(), superiority(primary=False))
    with pytest.raises(StatsError, match="gate ids repeat"):
        verdict_of(scores(), superiority(), superiority(primary=False))
    with pytest.raises(StatsError, match="must be required"):
        verdict_of(scores(), superiority(required=False))


def with_p(base, mission, p, verdict="PROMOTE"):
    return replace(base, mission=mission, p_value=p, verdict=verdict)


def test_family_counts_all_that_was_planned(scores):
    base = verdict_of(scores())
    family = [
        with_p(base, "A", 0.009),
        with_p(base, "B", 0.024),
        with_p(base, "C", 0.6, "REJECT"),
        with_p(base, "D", None, "INVALID"),
        with_p(base, "E", 0.001, "WITHHELD"),
    ]
    judged = judge_family(family)
    by_name = {v.mission: v for v in judged}
    assert [v.mission for v in judged] == list("ABCDE")
    assert by_name["A"].family.family == ("A", "B", "C", "D")
    assert by_name["A"].family.p_bh == pytest.approx(0.036)
    assert by_name["B"].family.p_bh == pytest.approx(0.048)
    assert by_name["D"].family.p_bh == 1.0
    assert by_name["A"].family.p_by == pytest.approx(0.036 * (1 + 1 / 2 + 1 / 3 + 1 / 4))
    assert (by_name["A"].verdict, by_name["B"].verdict) == ("PROMOTE", "PROMOTE")
    assert by_name["A"].family.fcr_interval.level == pytest.approx(1 - 2 * 0.05 / 4)
    assert by_name["C"].family.fcr_interval is None
    assert by_name["E"].family is None
    shuffled = judge_family(family[::-1])
    assert {v.mission: v for v in shuffled} == by_name


def test_a_pass_that_does_not_survive_the_family_is_inconclusive(scores):
    base = verdict_of(scores())
    family = [with_p(base, "A", 0.02)]
    family += [with_p(base, name, 0.9, "REJECT") for name in "BCDE"]
    found = judge_family(family)[0]
    assert found.verdict == "INCONCLUSIVE"
    assert "after Benjamini-Hochberg over 5 missions" in found.reasons[0]
    assert found.family.needed_p == pytest.approx(0.01)


def test_a_pass_that_the_family_stops_says_what_would_decide(scores):
    """The sizes are those of the primary gate at the level that its rank needs."""
    base = verdict_of(scores())
    primary = base.primary
    family = [with_p(base, "A", 0.02)]
    family[0] = replace(
        family[0],
        gates=tuple(replace(g, p_value=0.02) if g.primary else g for g in base.gates),
    )
    family += [with_p(base, name, 0.9, "REJECT") for name in "BCDE"]
    reason = judge_family(family)[0].reasons[1]
    sizes = deciding_sizes(
        primary.components,
        len(primary.seeds),
        primary.num_units,
        assumed=primary.estimate,
        margin=primary.margins[0],
        alpha=0.01,
        power=0.8,
    )
    assert reason.startswith(f"{primary.gate} needs p <= 0.01")
    assert sizes.text in reason
    with pytest.raises(StatsError, match="stands twice"):
        judge_family([base, base])


def test_identical_methods_are_promoted_at_the_nominal_rate(make_table, make_pair):
    """A/A through `judge`: 500 campaigns of one mission, one-sided 2.5 %.

    Four Monte-Carlo errors above 2.5 % are 5.3 %; the two-way t is a little conservative, so the
    rate must also stay above 0.2 %.
    """
    rng = np.random.default_rng(2)
    found = {"PROMOTE": 0, "REJECT": 0, "INCONCLUSIVE": 0, "INVALID": 0}
    for _ in range(500):
        treatment, control = make_pair(rng, num_examples=80, base=0.6, seed_sd=0.03)
        table = make_table({"t": treatment, "c": control})
        found[judge(plan(), table, costs(), rng_seed=1, resamples=20).verdict] += 1
    assert found["INVALID"] == 0
    assert 0.002 <= found["PROMOTE"] / 500 <= 0.053
    assert 0.002 <= found["REJECT"] / 500 <= 0.053


def test_family_of_true_nulls_keeps_its_false_discovery_rate(scores):
    """2,000 families of five uniform p-values: any selection is false; FDR 5 %, 4 errors 2 %."""
    base = verdict_of(scores())
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(2000):
        family = [with_p(base, name, p) for name, p in zip("ABCDE", rng.random(5), strict=True)]
        false += any(v.family.selected for v in judge_family(family))
    assert 0.03 <= false / 2000 <= 0.07
