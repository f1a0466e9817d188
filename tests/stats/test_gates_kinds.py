"""Slopes over length, censored times, ratios and point gates against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from gate_cases import CASES, levels, run, table_of
from scipy.stats import CensoredData, linregress, logrank, page_trend_test

from stats.errors import GateError
from stats.gates import parse_gate
from stats.gates.slope import length_of
from stats.logrank import restricted_mean_values
from stats.twoway import two_way

LENGTHS = (512, 2048, 8192, 32768)
METRICS = ["em@512", "em@2k", "em@8k", "em@32k"]
SLOPE = {"id": "s", "kind": "slope", "metric": "em", "metrics": METRICS, "treatment": "t"}


def slopes(grids, arm):
    """One regression a seed and example."""
    stack = [grids[name][arm] for name in METRICS]
    shape = stack[0].shape
    found = np.empty(shape)
    for s in range(shape[0]):
        for i in range(shape[1]):
            found[s, i] = linregress(np.log2(LENGTHS), [grid[s, i] for grid in stack]).slope
    return found


def test_slope_is_the_two_way_t_of_single_regressions():
    grids = levels(0.2, np.random.default_rng(0))
    alone = run(parse_gate(SLOPE), table_of(grids))
    analysis = two_way(slopes(grids, "t"))
    assert alone.estimate == pytest.approx(analysis.estimate, rel=1e-9)
    assert alone.standard_error == pytest.approx(analysis.standard_error, rel=1e-9)
    assert (alone.versus, alone.control_mean) == ("", None)
    paired = run(parse_gate({**SLOPE, "versus": "c"}), table_of(grids))
    analysis = two_way(slopes(grids, "t") - slopes(grids, "c"))
    assert paired.estimate == pytest.approx(analysis.estimate, rel=1e-9)
    assert paired.p_value == pytest.approx(analysis.p_value(0.0, "greater"), rel=1e-7)
    assert paired.details["lengths"] == [512, 2048, 8192, 32768]
    own, other = (paired.details[f"{name}slope_per_doubling"] for name in ("", "control_"))
    assert own - other == pytest.approx(paired.estimate, rel=1e-9)
    assert "per doubling" in paired.estimand
    assert "minus c" in paired.estimand


def test_lengths_are_read_or_given_and_checked():
    assert [length_of(name) for name in ("a@512", "a@8k", "acc_heavy@1M")] == [512, 8192, 2**20]
    given = parse_gate({**SLOPE, "metrics": ["x", "y", "z"], "lengths": [1, 2, 4]})
    assert given.known_lengths() == (1, 2, 4)
    for bad, text in (
        ({"metrics": ["em@512", "em@long", "em@8k"]}, "names no length"),
        ({"metrics": ["em@512", "em@512", "em@8k"]}, "must differ"),
        ({"lengths": [1, 2, 3]}, "3 lengths for 4 metrics"),
        ({"lengths": [0, 1, 2, 3]}, "above 0"),
        ({"metrics": ["em@1", "em@2"]}, "metrics"),
    ):
        with pytest.raises(GateError, match=text):
            parse_gate({**SLOPE, **bad})


def test_a_level_with_other_cells_is_refused():
    grids = levels(0.2, np.random.default_rng(0))
    grids = {**grids, "em@2k": {arm: grid[:, :-1] for arm, grid in grids["em@2k"].items()}}
    for gate in (SLOPE, CASES["monotone"].settings):
        found = run(parse_gate(gate), table_of(grids))
        assert found.decision == "INVALID"
        assert "'em@2k' has other seeds or examples" in found.reason


def test_page_equals_scipys_and_its_sizes_stand_where_it_keeps_the_gate_open():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(3, 40))
    means = {"em@512": 0.0, "em@2k": 0.05, "em@8k": 0.04}
    grids = {
        name: {"t": base + shift + 0.02 * rng.normal(size=base.shape)}
        for name, shift in means.items()
    }
    found = run(
        parse_gate(
            {
                "id": "m",
                "kind": "monotone",
                "metrics": list(means),
                "treatment": "t",
                "direction": "increasing",
            }
        ),
        table_of(grids),
    )
    expected = page_trend_test(np.array([grid["t"].mean(axis=1) for grid in grids.values()]).T)
    assert found.details["page_l"] == expected.statistic
    assert found.details["page_p"] == expected.pvalue > 0.025
    assert found.details["slope_p"] < 0.025
    assert found.decision == "INCONCLUSIVE"
    assert "for Page's test" in found.would_decide.text
    assert found.would_decide.seeds_at_these_examples > 3


def censored(rng, shape=(4, 30)):
    """Times censored anywhere, by a second clock."""
    event = {arm: rng.exponential(scale, size=shape) for arm, scale in (("t", 200), ("c", 400))}
    censor = {arm: rng.exponential(700, size=shape) for arm in "tc"}
    return {
        "em": {arm: np.minimum(event[arm], censor[arm]) for arm in "tc"},
        "em_event": {arm: (event[arm] <= censor[arm]).astype(float) for arm in "tc"},
    }


TIMES = {"id": "x", "kind": "time_to_event", "metric": "em", "treatment": "t", "versus": "c"}


def naive_restricted_mean(times, events, horizon):
    """Area under Kaplan-Meier, one time after the other."""
    survival, area, last = 1.0, 0.0, 0.0
    for time in sorted(set(times.tolist())):
        area += survival * (time - last)
        last = time
        at_risk = sum(times >= time)
        survival *= 1 - sum((times == time) & events) / at_risk
    return area + survival * (horizon - last)


def test_times_censored_anywhere_use_kaplan_meier():
    grids = censored(np.random.default_rng(0))
    found = run(parse_gate(TIMES), table_of(grids))
    horizon = max(float(grid.max()) for grid in grids["em"].values())
    means = {
        arm: naive_restricted_mean(
            grids["em"][arm].ravel(), grids["em_event"][arm].ravel() == 1, horizon
        )
        for arm in "tc"
    }
    assert found.details["censored_before_horizon"]
    assert found.estimate == pytest.approx(means["c"] - means["t"], rel=1e-9)
    assert found.treatment_mean == pytest.approx(means["t"], rel=1e-9)
    assert f"up to {horizon:g}" in found.estimand
    data = [
        CensoredData(
            grids["em"][arm][grids["em_event"][arm] == 1],
            right=grids["em"][arm][grids["em_event"][arm] == 0],
        )
        for arm in "tc"
    ]
    assert found.details["plain_logrank_p"] == pytest.approx(logrank(*data).pvalue, rel=1e-9)
    assert "does not decide" in found.details["plain_logrank_assumes"]
    assert "two-way" in found.details["decides"]


def test_without_censoring_the_values_are_the_times():
    times = np.random.default_rng(0).exponential(1.0, 400)
    mean, values = restricted_mean_values(times, np.ones(400, dtype=bool), float(times.max()))
    assert mean == pytest.approx(times.mean(), rel=1e-12)
    assert values.mean() == pytest.approx(mean, rel=1e-12)
    middle = times < np.quantile(times, 0.9)
    assert values[middle] == pytest.approx(times[middle], abs=0.08)


def test_clustered_times_are_ranked_first_and_averaged_afterwards():
    grids = censored(np.random.default_rng(1))
    clusters = [f"k{i // 3}" for i in range(30)]
    alone, found = (run(parse_gate(TIMES), table_of(grids, names)) for names in (None, clusters))
    assert found.num_units == 10
    assert found.details["plain_logrank_p"] == alone.details["plain_logrank_p"]
    assert found.estimate == pytest.approx(alone.estimate)
    assert found.standard_error != alone.standard_error


def test_a_contrast_shows_both_intervals_of_the_ratio():
    rng = np.random.default_rng(0)
    control = (rng.random((5, 300)) < 0.4).astype(float)
    treatment = control * (rng.random((5, 300)) < 0.5)
    scores = table_of({"em": {"t": treatment, "c": control}})
    gate = parse_gate(
        {"id": "c", "kind": "contrast", "metric": "em", "treatment": "t", "versus": "c",
         "ratio": 0.7}
    )  # fmt: skip
    details = run(gate, scores, resamples=4000).details
    ratio = treatment.mean() / control.mean()
    assert details["ratio"] == pytest.approx(ratio)
    assert details["reduction"] == pytest.approx(1 - ratio)
    for name in ("ratio_interval", "ratio_bca"):
        low, high = details[name]
        assert low < ratio < high
    assert details["ratio_bca"] == pytest.approx(details["ratio_interval"], abs=0.03)
    assert 0 < max(details["ratio_bca_error"]) < 0.01
    rare = np.zeros_like(control)
    rare[0, 0] = 1.0
    details = run(gate, table_of({"em": {"t": rare, "c": control}}), resamples=400).details
    assert details["ratio_bca"] is None
    assert "resamples have a mean of zero" in details["ratio_missing"]


def test_a_point_gate_describes_its_runs_and_shows_no_interval():
    """Two figures a run are no population of test items."""
    values = np.array([[1, 1], [1, 1], [0, 1], [1, 1], [1, 1]], dtype=float)
    gate = parse_gate(
        {"id": "p", "kind": "bound", "metric": "em", "treatment": "t", "lower": 0.99,
         "decide_on": "point"}
    )  # fmt: skip
    found = run(gate, table_of({"em": {"t": values}}))
    assert (found.decision, found.interval, found.bootstrap) == ("FAIL", None, None)
    assert found.reason == "90 % over 5 runs (50 % to 100 % by run): beyond the limit"
    assert "no claim on new ones" in found.estimand
    assert found.details["seed_range"] == [0.5, 1.0]


def test_a_gate_short_of_its_point_alone_plans_for_the_point():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5, 200))
    control = rng.normal(size=(5, 200))
    treatment = control + 0.2 + 0.3 * (noise - noise.mean())
    gate = parse_gate(
        {"id": "p", "kind": "superiority", "metric": "em", "treatment": "t", "versus": "c",
         "min_point": 0.21}
    )  # fmt: skip
    found = run(gate, table_of({"em": {"t": treatment, "c": control}}))
    assert found.decision == "INCONCLUSIVE"
    assert found.interval.low > 0
    assert found.would_decide.assumed == pytest.approx(0.2)
    assert found.would_decide.examples_at_these_seeds > 200
