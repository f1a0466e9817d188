from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.stats import CensoredData, logrank, page_trend_test

from stats.bootstrap import CrossedResamples
from stats.costs import ArmCost
from stats.errors import GateError
from stats.gates import GateConfig, GateContext, evaluate_gate, gate_kinds, parse_gate
from stats.inference import infer_mean
from stats.logrank import kaplan_meier_median
from stats.logrank import logrank as own_logrank
from stats.scores import ScoreTable
from stats.twoway import exact_bound, two_way


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid")
    gates: tuple[GateConfig, ...]


BASE = {"id": "g", "metric": "em", "treatment": "t", "versus": "c"}


def run(scores, *, costs=None, resamples=400, seeds=None, **settings):
    settings = {**BASE, **settings}
    if settings["kind"] in ("bound", "monotone"):
        del settings["versus"]
    context = GateContext(
        scores=scores,
        resampler=CrossedResamples(rng_seed=1, resamples=resamples),
        costs=costs or {},
        seeds=seeds,
    )
    return evaluate_gate(parse_gate({k: v for k, v in settings.items() if v != ""}), context)


def noisy(mean, rng_seed=0, shape=(5, 100), sd=0.2):
    return mean + sd * np.random.default_rng(rng_seed).normal(size=shape)


@pytest.fixture
def pair_table(make_table):
    """Arms whose mean difference is exactly `effect`, with paired noise."""

    def build(effect, metric="em", level=2.0):
        noise = noisy(0.0, 3)
        noise -= noise.mean()
        control = noisy(level, 4)
        return make_table({"t": control + effect + noise, "c": control}, metric)

    return build


def test_all_kinds_are_found():
    assert gate_kinds() == (
        "bound", "contrast", "equivalence", "exact", "monotone", "non_inferiority",
        "slope", "superiority", "time_to_event",
    )  # fmt: skip


def test_union_inside_a_model_names_what_is_known():
    plan = Plan.model_validate({"gates": [{**BASE, "kind": "superiority", "min_point": 0.015}]})
    assert plan.gates[0].min_point == 0.015
    assert plan.model_dump(mode="json")["gates"][0]["min_lower"] == 0.0
    with pytest.raises(ValidationError, match=r"'monotone'.*'superiority'"):
        Plan.model_validate({"gates": [{**BASE, "kind": "better"}]})
    with pytest.raises(ValidationError, match="min_pont"):
        Plan.model_validate({"gates": [{**BASE, "kind": "superiority", "min_pont": 1}]})


def test_parse_gate_says_field_and_hint():
    with pytest.raises(GateError, match=r"Gate 'g': unknown kind 'better'. Known: bound, "):
        parse_gate({**BASE, "kind": "better"})
    with pytest.raises(GateError, match=r"unknown field 'min_pont'. Did you mean 'min_point'"):
        parse_gate({**BASE, "kind": "superiority", "min_pont": 1})
    with pytest.raises(GateError, match=r"margin: .*greater than 0.*got -1"):
        parse_gate({**BASE, "kind": "non_inferiority", "margin": -1})
    with pytest.raises(GateError, match="needs `upper`, `lower` or both"):
        parse_gate({"id": "g", "kind": "bound", "metric": "em", "treatment": "t"})


def test_superiority_keeps_point_and_lower_apart(pair_table):
    gate = {"kind": "superiority"}
    found = run(pair_table(0.05), **gate, min_point=0.04)
    low, high = found.interval.low, found.interval.high
    assert found.decision == "PASS"
    assert low < 0.04
    assert run(pair_table(0.05), **gate, min_point=0.051).decision == "INCONCLUSIVE"
    assert run(pair_table(0.05), **gate, min_lower=low + 1e-9).decision == "INCONCLUSIVE"
    assert run(pair_table(0.05), **gate, min_lower=low - 1e-9).decision == "PASS"
    assert run(pair_table(0.05), **gate, min_point=high + 1e-9).decision == "FAIL"
    assert run(pair_table(0.05), **gate, min_lower=high + 1e-9).decision == "FAIL"
    assert run(pair_table(-0.5), **gate).decision == "FAIL"
    assert run(pair_table(-0.5), **gate, higher_is_better=False).decision == "PASS"


def test_superiority_figures_are_the_two_way_t(pair_table):
    scores = pair_table(0.05)
    found = run(scores, kind="superiority", min_lower=0.01)
    frame = scores.frame.pivot(index=["arm", "seed"], columns="example_id", values="value")
    analysis = two_way(frame.loc["t"].to_numpy() - frame.loc["c"].to_numpy())
    assert found.estimate == analysis.estimate == pytest.approx(0.05)
    assert (found.interval.low, found.interval.high) == analysis.interval()
    assert found.p_value == analysis.p_value(0.01, "greater")
    assert found.components == analysis.components
    assert found.seed_estimates == analysis.seed_means
    assert (found.num_examples, found.seeds) == (100, (0, 1, 2, 3, 4))
    assert found.treatment_mean - found.control_mean == pytest.approx(found.estimate)
    assert "treatment minus control" in found.estimand
    assert "training seeds" in found.estimand
    assert {effect.name for effect in found.effects} == {"d_z", "d_av", "d_pooled"}
    assert found.mde > 0


def test_undecided_gate_says_what_would_decide(pair_table):
    found = run(pair_table(0.01), kind="superiority", min_point=0.02)
    assert found.decision == "INCONCLUSIVE"
    assert found.would_decide.assumed == 0.02
    assert "seeds x 100" in found.would_decide.text
    assert run(pair_table(0.5), kind="superiority").would_decide is None


def test_identical_arms_never_pass_anything_that_claims_a_difference(make_table):
    scores = make_table({"t": np.ones((5, 50)), "c": np.ones((5, 50))})
    found = run(scores, kind="superiority")
    assert (found.decision, found.interval, found.p_value) == ("INVALID", None, None)
    assert "zero variation" in found.reason
    assert found.estimate == 0.0


def test_constant_nonbinary_difference_is_invalid(make_table):
    scores = make_table({"t": np.full((5, 50), 3.5), "c": np.full((5, 50), 2.25)})
    for gate in ({"kind": "superiority"}, {"kind": "non_inferiority", "margin": 0.1}):
        found = run(scores, **gate)
        assert (found.decision, found.interval) == ("INVALID", None)
    assert run(scores, kind="equivalence", log_ratio_margin=0.9).decision == "INVALID"


def test_constant_binary_grids_use_the_exact_bound(make_table):
    ones, zeros = np.ones((5, 1000)), np.zeros((5, 1000))
    share = exact_bound(1000)
    same = run(make_table({"t": ones, "c": ones}), kind="non_inferiority", margin=0.01)
    assert same.decision == "PASS"
    assert (same.interval.low, same.interval.high) == pytest.approx((-share, share))
    assert same.interval.method == "exact bound, nothing varied"
    few = make_table({"t": ones[:, :100], "c": ones[:, :100]})
    assert run(few, kind="non_inferiority", margin=0.01).decision == "INCONCLUSIVE"
    none = run(make_table({"t": zeros}), kind="bound", upper=0.01)
    assert none.decision == "PASS"
    assert none.interval.high == pytest.approx(share)
    assert none.interval.low == 0.0
    assert none.p_value == pytest.approx(0.99**1000)
    assert run(make_table({"t": zeros}), kind="bound", upper=0.003).decision == "INCONCLUSIVE"
    apart = run(make_table({"t": ones, "c": zeros}), kind="superiority")
    assert apart.decision == "PASS"
    assert apart.interval.low == pytest.approx(1 - 2 * share)


def test_p_value_and_exact_interval_agree():
    """The bound leaves out a null exactly when its one-sided p is below 2.5 %."""
    for constant, span in ((1.0, (-1.0, 1.0)), (0.0, (-1.0, 1.0)), (0.0, (0.0, 1.0))):
        found = infer_mean(
            np.full((3, 40), constant), CrossedResamples(rng_seed=0), value_range=span
        )
        for limit, side in ((found.interval.low, "greater"), (found.interval.high, "less")):
            if span[0] < limit < span[1] and limit != constant:
                assert found.p_value(limit, side) == pytest.approx(0.025)


def test_non_inferiority_absolute(pair_table):
    gate = {"kind": "non_inferiority"}
    found = run(pair_table(-0.01), **gate, margin=0.1)
    assert found.decision == "PASS"
    assert found.margins == (-0.1,)
    low, high = found.interval.low, found.interval.high
    assert run(pair_table(-0.01), **gate, margin=-low + 1e-9).decision == "PASS"
    assert run(pair_table(-0.01), **gate, margin=-low - 1e-9).decision == "INCONCLUSIVE"
    assert run(pair_table(-0.5), **gate, margin=0.1).decision == "FAIL"
    assert run(pair_table(0.5), **gate, margin=0.1, higher_is_better=False).decision == "FAIL"
    assert low < -0.01 < high


def test_non_inferiority_relative_is_the_contrast(pair_table):
    scores = pair_table(-0.02)
    found = run(scores, kind="non_inferiority", margin=0.05, scale="relative")
    assert found.decision == "PASS"
    assert found.estimate == pytest.approx(found.treatment_mean - 0.95 * found.control_mean)
    change = found.details["relative_change"]
    assert change == pytest.approx(found.treatment_mean / found.control_mean - 1)
    low, high = found.details["relative_change_interval"]
    assert low < change < high
    lower = run(
        scores, kind="non_inferiority", margin=0.05, scale="relative", higher_is_better=False
    )
    assert lower.estimate == pytest.approx(1.05 * found.control_mean - found.treatment_mean)
    bad = run(pair_table(-5), kind="non_inferiority", margin=0.05, scale="relative")
    assert bad.decision == "INVALID"
    assert "negative" in bad.reason


def test_equivalence_is_tost_on_the_log_ratio(make_table):
    control = np.exp(noisy(0.0, 1))
    ratio = np.exp(noisy(math.log(1.05), 2, sd=0.1))
    scores = make_table({"t": control * ratio, "c": control}, "latency")
    gate = {"kind": "equivalence", "metric": "latency"}
    found = run(scores, **gate, log_ratio_margin=math.log(1.15))
    assert found.decision == "PASS"
    assert found.details["ratio"] == pytest.approx(1.05, abs=0.02)
    analysis = two_way(np.log(ratio))
    upper = analysis.p_value(math.log(1.15), "less")
    lower = analysis.p_value(-math.log(1.15), "greater")
    assert found.p_value == pytest.approx(max(upper, lower), rel=1e-9)
    assert run(scores, **gate, log_ratio_margin=0.001).decision == "FAIL"
    near = float(np.mean(np.log(ratio)))
    assert run(scores, **gate, log_ratio_margin=near).decision == "INCONCLUSIVE"
    fast = make_table({"t": control / 2 * ratio, "c": control}, "latency")
    assert run(fast, **gate, log_ratio_margin=0.14).decision == "FAIL"
    assert run(fast, **gate, log_ratio_margin=0.14, sided="upper").decision == "PASS"
    negative = run(make_table({"t": -control, "c": control}, "latency"), **gate,
                   log_ratio_margin=0.1)  # fmt: skip
    assert (negative.decision, "values > 0" in negative.reason) == ("INVALID", True)


def test_bound_on_interval_and_point(make_table):
    scores = make_table({"t": noisy(2.0)})
    found = run(scores, kind="bound", upper=3.0)
    assert found.decision == "PASS"
    assert found.versus == ""
    assert run(scores, kind="bound", upper=2.0, lower=1.0).decision == "INCONCLUSIVE"
    assert run(scores, kind="bound", upper=1.5).decision == "FAIL"
    assert run(scores, kind="bound", lower=2.5).decision == "FAIL"
    assert run(scores, kind="bound", lower=1.5, upper=2.5).decision == "PASS"
    constant = make_table({"t": np.full((5, 20), 3.0)})
    assert run(constant, kind="bound", upper=3.0).decision == "INVALID"
    exact = run(constant, kind="bound", upper=3.0, decide_on="point")
    assert (exact.decision, exact.p_value) == ("PASS", None)
    assert "descriptive" in exact.criterion
    assert run(constant, kind="bound", upper=2.9, decide_on="point").decision == "FAIL"
    single = make_table({"t": np.array([[0.94], [0.98]])})
    found = run(single, kind="bound", lower=0.95, decide_on="point")
    assert (found.decision, found.estimate, found.interval) == ("PASS", pytest.approx(0.96), None)
    assert run(single, kind="bound", lower=0.95).decision == "INCONCLUSIVE"


def test_contrast_tests_the_reduction(make_table, make_pair):
    rng = np.random.default_rng(0)
    treatment, control = make_pair(rng, num_examples=600, base=0.4, effect=-0.25)
    scores = make_table({"t": treatment, "c": control})
    found = run(scores, kind="contrast", ratio=0.7)
    assert found.decision == "PASS"
    assert found.estimate == pytest.approx(treatment.mean() - 0.7 * control.mean())
    assert found.p_value == two_way(treatment - 0.7 * control).p_value(0.0, "less")
    assert found.details["reduction"] == pytest.approx(1 - treatment.mean() / control.mean())
    low, high = found.details["reduction_interval"]
    assert 0.3 < low < found.details["reduction"] < high < 1
    assert run(scores, kind="contrast", ratio=0.2).decision == "FAIL"
    ratio = treatment.mean() / control.mean()
    assert run(scores, kind="contrast", ratio=ratio).decision == "INCONCLUSIVE"


def test_contrast_without_control_events_is_not_estimable(make_table):
    zeros = np.zeros((5, 200))
    events = zeros.copy()
    events[:, :3] = 1.0
    both = run(make_table({"t": zeros, "c": zeros}), kind="contrast", ratio=0.7)
    assert both.decision == "INVALID"
    assert "the control has no events" in both.reason
    worse = run(make_table({"t": events, "c": zeros}), kind="contrast", ratio=0.7)
    assert worse.decision in ("FAIL", "INCONCLUSIVE")
    assert worse.details["reduction"] is None
    assert "not estimable (control has no events)" in worse.reason
    better = run(make_table({"t": zeros, "c": events}), kind="contrast", ratio=0.7)
    assert "not estimable (treatment has no events)" in better.reason
    assert "100" not in better.reason


def test_monotone_uses_the_slope_and_pages_test(make_table):
    metrics = [f"em@{level}" for level in (0, 25, 50, 75)]
    grids = [noisy(1.0 - 0.2 * k, k) for k in range(4)]
    scores = ScoreTable.concat(
        make_table({"t": grid}, metric) for grid, metric in zip(grids, metrics, strict=True)
    )
    gate = {"kind": "monotone", "metric": "trend", "metrics": metrics}
    found = run(scores, **gate, direction="decreasing")
    assert found.decision == "PASS"
    means_SK = np.stack([grid.mean(axis=1) for grid in grids], axis=1)
    expected = page_trend_test(-means_SK)
    assert found.details["page_l"] == expected.statistic
    assert found.details["page_p"] == pytest.approx(expected.pvalue, rel=1e-12)
    slope = np.polyfit(range(4), means_SK.mean(axis=0), 1)[0]
    assert found.estimate == pytest.approx(slope)
    assert found.p_value == max(found.details["page_p"], found.details["slope_p"])
    assert run(scores, **gate, direction="increasing").decision == "FAIL"
    flat = ScoreTable.concat(
        make_table({"t": noisy(1.0, 50 + k)}, metric) for k, metric in enumerate(metrics)
    )
    assert run(flat, **gate, direction="decreasing").decision in ("INCONCLUSIVE", "FAIL")
    short = ScoreTable.concat(
        make_table({"t": grid[:, : 90 + k]}, metric)
        for k, (grid, metric) in enumerate(zip(grids, metrics, strict=True))
    )
    assert run(short, **gate, direction="decreasing").decision == "INVALID"


def exact_costs(treatment, control):
    return {
        arm: ArmCost(
            arm=arm, trainable_params=value, adapter_params=value, forward_flops=float(value)
        )
        for arm, value in (("t", treatment), ("c", control))
    }


def test_exact_compares_integers(make_table):
    scores = make_table({"t": np.zeros((2, 2))})
    gate = {"kind": "exact", "metric": ""}
    found = run(scores, costs=exact_costs(1050, 1000), **gate)
    assert (found.decision, found.p_value, found.interval) == ("PASS", None, None)
    assert found.estimate == pytest.approx(0.05)
    assert run(scores, costs=exact_costs(1051, 1000), **gate).decision == "FAIL"
    assert run(scores, costs=exact_costs(10, 1000), **gate).decision == "FAIL"
    assert run(scores, costs=exact_costs(10, 1000), **gate, at_most=True).decision == "PASS"
    missing = run(scores, costs={}, **gate)
    assert (missing.decision, "No cost of arm 't'" in missing.reason) == ("INVALID", True)
    zero = run(scores, costs=exact_costs(10, 0), **gate)
    assert zero.decision == "INVALID"
    unmeasured = run(scores, costs=exact_costs(1, 1), kind="exact", metric="persistent_bytes")
    assert "was not measured" in unmeasured.reason


def times_table(make_table, rng, factor, shape=(5, 80), horizon=1000.0):
    item = rng.exponential(500, size=(1, shape[1]))
    times = {
        arm: item * scale * rng.lognormal(0, 0.4, size=shape)
        for arm, scale in (("t", factor), ("c", 1.0))
    }
    return ScoreTable.concat(
        [
            make_table({arm: np.minimum(t, horizon) for arm, t in times.items()}, "fix"),
            make_table({a: (t < horizon).astype(float) for a, t in times.items()}, "fix_event"),
        ]
    ), times


def test_plain_logrank_equals_scipys():
    rng = np.random.default_rng(0)
    raw = np.round(rng.exponential(600, size=(2, 1, 50)))
    raw[1] *= 1.5
    times, events = np.minimum(raw, 1000.0), raw < 1000.0
    expected = logrank(
        CensoredData(times[0][events[0]], right=times[0][~events[0]]),
        CensoredData(times[1][events[1]], right=times[1][~events[1]]),
    )
    z, p = own_logrank(times, events)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)
    assert abs(z) == pytest.approx(abs(expected.statistic), rel=1e-9)


def test_time_to_event(make_table):
    scores, times = times_table(make_table, np.random.default_rng(1), 0.5)
    gate = {"kind": "time_to_event", "metric": "fix"}
    found = run(scores, **gate)
    assert found.decision == "PASS"
    gained = np.minimum(times["c"], 1000) - np.minimum(times["t"], 1000)
    assert found.estimate == pytest.approx(gained.mean())
    assert found.details["two_way_logrank_p"] <= found.p_value < 0.025
    assert found.details["event_share"][0] == pytest.approx((times["t"] < 1000).mean())
    assert found.details["median_time"][0] == pytest.approx(np.median(times["t"]), rel=0.02)
    slower, _ = times_table(make_table, np.random.default_rng(1), 2.0)
    assert run(slower, **gate).decision == "FAIL"
    assert run(scores, **gate, min_point=found.interval.high + 1).decision == "FAIL"
    never = ScoreTable.concat(
        [make_table({"t": noisy(5.0), "c": noisy(6.0)}, "fix"),
         make_table({"t": np.zeros((5, 100)), "c": np.zeros((5, 100))}, "fix_event")]
    )  # fmt: skip
    assert "no events in either arm" in run(never, **gate).reason
    assert run(scores.select(metric="fix"), **gate).decision == "INVALID"


def test_two_way_logrank_holds_its_level_where_the_plain_one_does_not(make_table):
    """Seeds that shift all times: 80 null grids, one-sided 2.5 %."""
    rng = np.random.default_rng(8)
    two_way_hits = plain_hits = 0
    for _ in range(80):
        shift = {arm: rng.lognormal(0, 0.35, size=(5, 1)) for arm in "tc"}
        item = rng.exponential(500, size=(1, 60))
        raw = {arm: item * shift[arm] * rng.lognormal(0, 0.3, size=(5, 60)) for arm in "tc"}
        scores = ScoreTable.concat(
            [
                make_table({a: np.minimum(t, 1000.0) for a, t in raw.items()}, "fix"),
                make_table({a: (t < 1000).astype(float) for a, t in raw.items()}, "fix_event"),
            ]
        )
        found = run(scores, kind="time_to_event", metric="fix", resamples=50)
        details = found.details
        two_way_hits += found.decision == "PASS"
        plain_hits += details["plain_logrank_p"] < 0.05 and details["plain_logrank_z"] > 0
    assert two_way_hits <= 7
    assert plain_hits > two_way_hits


def test_kaplan_meier_median_counts_the_censored():
    times = np.array([1.0, 2.0, 3.0, 4.0])
    assert kaplan_meier_median(times, np.array([True] * 4)) == 2.0
    assert kaplan_meier_median(times, np.array([True, False, False, False])) is None


@pytest.mark.parametrize("kind", ["superiority", "bound", "contrast"])
@pytest.mark.parametrize("shape", [(1, 50), (5, 1)])
def test_one_seed_or_one_example_is_inconclusive(make_table, kind, shape):
    rng = np.random.default_rng(0)
    scores = make_table({arm: rng.random(shape) for arm in "tc"})
    extra = {"bound": {"upper": 2.0}, "contrast": {"ratio": 0.7}}.get(kind, {})
    found = run(scores, kind=kind, **extra)
    assert found.decision == "INCONCLUSIVE"
    assert "at least 2 x 2" in found.reason


def test_missing_metric_or_seed_is_invalid(make_table):
    scores = make_table({arm: noisy(1.0, k) for k, arm in enumerate("tc")})
    assert run(scores, kind="superiority", metric="f1").decision == "INVALID"
    found = run(scores, kind="superiority", seeds=(0, 1, 2, 3, 4, 5))
    assert found.decision == "INVALID"
    assert "planned were" in found.reason


def test_clusters_are_the_units(make_table):
    rng = np.random.default_rng(0)
    clusters = [f"d{i // 4}" for i in range(40)]
    grids = {arm: rng.normal(size=(5, 40)) for arm in "tc"}
    found = run(make_table(grids, clusters=clusters), kind="superiority")
    means = (grids["t"] - grids["c"]).reshape(5, 10, 4).mean(axis=2)
    assert found.standard_error == pytest.approx(two_way(means).standard_error)
    assert (found.num_examples, found.num_units) == (40, 10)
    assert "each counts once" in found.estimand
