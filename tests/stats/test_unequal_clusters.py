"""Clusters of unequal size: what is estimated, and how often the interval holds it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gate_cases import run, table_of

from stats import naive
from stats.bootstrap import CrossedResamples
from stats.gates import parse_gate
from stats.inference import EXACT, infer_mean
from stats.ratios import infer_ratio, weighted_mean_bca
from stats.twoway import exact_bound, two_way

SIZES = [1, 2, 9, 3, 20, 5, 1, 7]
CLUSTERS = [f"k{at}" for at, size in enumerate(SIZES) for _ in range(size)]
PAIR = {"id": "g", "metric": "em", "treatment": "t", "versus": "c", "kind": "superiority"}


def grids(rng_seed=0, level=2.0):
    rng = np.random.default_rng(rng_seed)
    shape = (4, len(CLUSTERS))
    return {arm: level + rng.normal(size=shape) for arm in "tc"}


def test_the_default_is_the_mean_over_examples_and_says_so():
    values = grids()
    table = table_of({"em": values}, CLUSTERS)
    found = run(parse_gate(PAIR), table)
    assert found.estimate == pytest.approx((values["t"] - values["c"]).mean())
    assert found.treatment_mean == pytest.approx(values["t"].mean())
    assert found.control_mean == pytest.approx(values["c"].mean())
    assert found.seed_estimates == pytest.approx(
        tuple((values["t"] - values["c"]).mean(axis=1)), rel=1e-9
    )
    assert "each test item counts once, so a cluster counts by its size" in found.estimand
    assert "1 to 20 test items, median 4" in found.estimand
    assert found.details["cluster_sizes"] == [1, 4.0, 20]
    total, squares = sum(SIZES), sum(size**2 for size in SIZES)
    assert found.details["effective_clusters"] == pytest.approx(total**2 / squares)
    assert {effect.unit for effect in found.effects} == {"seeds", "clusters"}


def test_the_mean_over_clusters_can_be_asked_for_and_says_so():
    values = grids()
    found = run(parse_gate({**PAIR, "average": "clusters"}), table_of({"em": values}, CLUSTERS))
    edges = np.cumsum([0, *SIZES])
    difference = values["t"] - values["c"]
    means = np.stack(
        [difference[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)], axis=1
    )
    assert found.estimate == pytest.approx(means.mean())
    assert found.standard_error == pytest.approx(two_way(means).standard_error)
    assert "each cluster counts once, whatever its size" in found.estimand


def test_weighted_variance_equals_the_loops():
    rng = np.random.default_rng(3)
    values_SN = rng.normal(size=(4, 6)) + rng.normal(size=(4, 1)) + 2 * rng.normal(size=6)
    sizes = [1.0, 4.0, 2.0, 30.0, 7.0, 7.0]
    found = two_way(values_SN, np.array(sizes))
    mean, variance, unit_df = naive.weighted_two_way(values_SN, sizes)
    assert found.estimate == pytest.approx(mean, rel=1e-12)
    assert found.standard_error**2 == pytest.approx(variance, rel=1e-10)
    only_units = np.repeat(values_SN[:1], 2, axis=0)
    assert two_way(only_units, np.array(sizes)).df == pytest.approx(unit_df, rel=1e-9)


def draw_sizes(kind, num, rng):
    if kind == "1 to 50":
        return rng.integers(1, 51, num)
    return np.minimum(np.ceil(rng.pareto(1.2, num) + 0.5), 200).astype(int)


@pytest.mark.parametrize("kind", ["1 to 50", "pareto"])
@pytest.mark.parametrize("informative", [0.0, 0.1])
def test_coverage_of_the_mean_over_examples(kind, informative):
    """500 grids of 5 seeds x 30 clusters, seed SD .1, cluster SD .3; nominal 95 %.

    Sizes are drawn anew each time and, where informative, larger clusters have larger means. Four
    Monte-Carlo errors below 95 % are 91.1 %. The mean over clusters misses the mean over examples
    where sizes are informative.
    """
    rng = np.random.default_rng(11)
    many = draw_sizes(kind, 400_000, np.random.default_rng(5))
    truth = informative * float((many * np.log(many)).sum() / many.sum())
    hits = by_cluster = 0
    for _ in range(500):
        sizes_N = draw_sizes(kind, 30, rng)
        if len(set(sizes_N.tolist())) == 1:
            continue
        values_SN = (
            informative * np.log(sizes_N)
            + 0.3 * rng.normal(size=30)
            + 0.1 * rng.normal(size=(5, 1))
            + rng.normal(size=(5, 30)) * np.sqrt(1.0 / sizes_N)
        )
        low, high = two_way(values_SN, sizes_N.astype(float)).interval()
        hits += low <= truth <= high
        low, high = two_way(values_SN).interval()
        by_cluster += low <= truth <= high
    assert hits / 500 >= 0.911
    if informative:
        assert by_cluster / 500 < {"1 to 50": 0.93, "pareto": 0.75}[kind]


def test_the_weighted_bootstrap_agrees_with_the_two_way_width():
    rng = np.random.default_rng(2)
    sizes_N = rng.integers(1, 40, 60).astype(float)
    values_SN = rng.normal(size=(6, 60)) + rng.normal(size=60)
    analysis = two_way(values_SN, sizes_N)
    resampler = CrossedResamples(rng_seed=1, resamples=4000)
    found = weighted_mean_bca(values_SN, sizes_N, resampler, level=0.95, analysis=analysis)
    low, high = analysis.interval()
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)
    assert found.low < analysis.estimate < found.high
    assert 0 < found.low_error < 0.1 * (high - low)
    assert "size-weighted" in found.method


def test_the_ratio_of_weighted_means_is_the_ratio_over_examples():
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 9, 25)
    top_SN, bottom_SN = rng.random((5, 25)), rng.random((5, 25)) + 0.3
    found = infer_ratio(
        top_SN,
        bottom_SN,
        CrossedResamples(rng_seed=1, resamples=2000),
        weights_N=sizes.astype(float),
    )
    every = [np.repeat(grid, sizes, axis=1).mean() for grid in (top_SN, bottom_SN)]
    assert found.ratio == pytest.approx(every[0] / every[1], rel=1e-12)
    assert found.interval.low < found.ratio < found.interval.high
    assert found.bootstrap.low == pytest.approx(found.interval.low, rel=0.08)
    assert found.bootstrap.high == pytest.approx(found.interval.high, rel=0.08)


def test_the_exact_bound_grows_with_the_largest_cluster():
    sizes_N = np.array([1.0] * 99 + [5.0])
    resampler = CrossedResamples(rng_seed=1, resamples=10)
    found = infer_mean(np.zeros((3, 100)), resampler, value_range=(0.0, 1.0), weights_N=sizes_N)
    factor = 5.0 / (104 / 100)
    assert found.interval.method == EXACT
    assert found.interval.high == pytest.approx(exact_bound(100) * factor)
    assert found.p_value(found.interval.high, "less") == pytest.approx(0.025)
    assert found.p_value(1.2, "less") == 0.0  # no score lies there
    plan = found.would_decide(0.0, 0.02, 0.025, 0.8)
    units = plan.examples_at_these_seeds
    assert exact_bound(units) * factor < 0.02 <= exact_bound(units - 2) * factor
