"""Many metrics at once against plain loops, one-metric calls and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from stats import naive
from stats.bootstrap import (
    CategoryResamples,
    CrossedResamples,
    OneWayResamples,
    bca_interval,
    bca_many,
    crossed_bca,
)
from stats.bootstrap.lattice import to_lattice
from stats.errors import DegenerateDataError, MagnitudeError, StatsError
from stats.twoway import exact_bound, two_way
from stats.twoway_many import two_way_many


def mixed_table(seed, shape):
    """Binary, three-valued, continuous and skewed metrics in one table (metrics last)."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            rng.integers(0, 2, size=shape).astype(float),
            rng.normal(size=shape) * 1e-3 + 5,
            rng.integers(-1, 2, size=shape).astype(float),
            rng.exponential(size=shape),
            rng.integers(0, 6, size=shape) / 5,
        ],
        axis=-1,
    )


def indices(counts_BN):
    return np.array([np.repeat(np.arange(len(row)), row.astype(int)) for row in counts_BN])


def test_one_way_equals_the_loops():
    values_NM = mixed_table(0, (30,))
    resampler = OneWayResamples(rng_seed=4, resamples=400)
    found = resampler.many(values_NM)
    draws_BN = indices(resampler._kept[30])
    limits = bca_many(values_NM, resampler, level=0.9)
    for m in range(values_NM.shape[1]):
        slow_B = naive.unit_replicates(values_NM[:, m], draws_BN)
        assert found.values_MB[m] == pytest.approx(slow_B, abs=1e-12)
        acceleration = naive.acceleration(values_NM[None, :, m])
        # The loops lose digits of the metric around 5 +- 0.001 when they subtract means.
        assert found.acceleration_M[m] == pytest.approx(acceleration, rel=1e-6)
        expected = naive.bca(slow_B, values_NM[:, m].mean(), acceleration, 0.9, tolerance=1e-11)
        assert (limits.low_M[m], limits.high_M[m]) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("shape", [(3, 41), (5, 20), (12, 15)])
def test_crossed_equals_one_metric_at_a_time(shape):
    """3 and 5 seeds take the route over seed counts (8 metrics or more), 12 seeds the other."""
    values_SNM = np.concatenate([mixed_table(1, shape), mixed_table(2, shape)], axis=-1)
    resampler = CrossedResamples(rng_seed=3, resamples=2500)
    found = resampler.many(values_SNM)
    many = bca_many(values_SNM, resampler)
    grids = [np.ascontiguousarray(values_SNM[:, :, m]) for m in range(values_SNM.shape[2])]
    for m, grid in enumerate(grids):
        single = CrossedResamples(rng_seed=3, resamples=2500).replicates(grid)
        assert (found.values_MB[m] == single.values_B).all()
        assert found.estimate_M[m] == single.estimate
        one = crossed_bca(grid, resampler)
        assert (many.low_M[m], many.high_M[m]) == pytest.approx((one.low, one.high), abs=1e-12)
        assert many.low_error_M[m] == pytest.approx(one.low_error, rel=1e-9)
        assert many.calibration_M[m] == pytest.approx(one.calibration, rel=1e-9)
        assert many.one(m).method == one.method


def test_both_routes_give_the_same_bits():
    values_SNM = mixed_table(5, (4, 25))
    resampler = CrossedResamples(rng_seed=1, resamples=700)
    for at, kind in to_lattice(values_SNM).parts():
        steps_SNm = to_lattice(values_SNM).steps_SNM[:, :, at].astype(kind)
        assert (resampler._by_seed(steps_SNm) == resampler._by_seed_counts(steps_SNm)).all()


def test_float32_is_used_only_where_it_is_exact():
    lattice = to_lattice(mixed_table(0, (5, 50)))
    assert lattice.single_M.tolist() == [True, False, True, False, False]
    values_NM = np.random.default_rng(0).integers(-1, 2, size=(400, 3)).astype(float)
    with_noise = np.concatenate([values_NM, np.pi * np.ones((400, 1)) * values_NM[:, :1]], axis=1)
    resampler = OneWayResamples(rng_seed=0, resamples=300)
    small, mixed = resampler.many(values_NM), resampler.many(with_noise)
    counts_BN = resampler._kept[400].astype(np.float64)
    assert (np.rint(small.values_MB * 400) == (counts_BN @ values_NM).T).all()
    assert small.values_MB == pytest.approx(np.rint(small.values_MB * 400) / 400, abs=1e-15)
    assert (mixed.values_MB[:3] == small.values_MB).all()
    assert mixed.values_MB[3] == pytest.approx(np.pi * small.values_MB[0], abs=1e-11)


def test_a_metric_does_not_depend_on_its_neighbours():
    values_NM = mixed_table(3, (60,))
    resampler = OneWayResamples(rng_seed=2, resamples=500)
    whole = bca_many(values_NM, resampler)
    order = [3, 0, 0, 4, 1, 2]
    other = bca_many(values_NM[:, order], OneWayResamples(rng_seed=2, resamples=500))
    for name in ("estimate_M", "low_M", "high_M", "low_error_M", "high_error_M"):
        assert getattr(other, name) == pytest.approx(getattr(whole, name)[order], rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), shift=st.integers(-64, 64), power=st.integers(-20, 20))
def test_shift_scale_and_sign(seed, shift, power):
    values_NM = np.random.default_rng(seed).normal(size=(25, 2))
    resampler = OneWayResamples(rng_seed=1, resamples=300)
    plain = bca_many(values_NM, resampler)
    moved = bca_many(values_NM * 2.0**power + shift, resampler)
    size = 1e-10 * (2.0**power + abs(shift))
    assert moved.low_M == pytest.approx(plain.low_M * 2.0**power + shift, abs=size)
    assert moved.high_M == pytest.approx(plain.high_M * 2.0**power + shift, abs=size)
    turned = bca_many(-values_NM, resampler)
    assert turned.low_M == pytest.approx(-plain.high_M, abs=1e-10)
    assert turned.high_M == pytest.approx(-plain.low_M, abs=1e-10)


@pytest.mark.parametrize("size", [1e-150, 1.0, 1e150])
def test_very_small_and_very_large_scores(size):
    values_SNM = np.random.default_rng(0).normal(size=(4, 30, 2))
    plain = bca_many(values_SNM, CrossedResamples(rng_seed=0, resamples=400))
    scaled = bca_many(values_SNM * size, CrossedResamples(rng_seed=0, resamples=400))
    assert scaled.low_M / size == pytest.approx(plain.low_M, abs=1e-9)
    assert scaled.high_M / size == pytest.approx(plain.high_M, abs=1e-9)


def test_scores_outside_the_range_of_float64_are_refused():
    values_NM = np.array([[0.0, 1.0], [1e300, 2.0], [-1e300, 3.0]])
    with pytest.raises(MagnitudeError, match=r"Metrics \[0\] span more"):
        bca_many(values_NM, OneWayResamples(rng_seed=0, resamples=50))
    with pytest.raises(MagnitudeError, match=r"metrics \[0\] hold values above"):
        two_way_many(np.stack([values_NM, values_NM]))


def test_categories_have_the_exact_binomial_distribution():
    values_N1 = np.r_[np.ones(30), np.zeros(70)][:, None]
    found = CategoryResamples(rng_seed=0, resamples=40_000).many(values_N1)
    hits_B = np.rint(found.values_MB[0] * 100).astype(int)
    for at in (22, 27, 30, 34):
        # 4 Monte-Carlo errors of a share of 40,000: at most 1 percentage point.
        assert np.mean(hits_B <= at) == pytest.approx(binom.cdf(at, 100, 0.3), abs=0.01)
    assert (found.values_MB[0] * 100 == pytest.approx(hits_B, abs=1e-9))  # fmt: skip


def test_categories_agree_with_drawing_units():
    values_SNM = np.random.default_rng(0).integers(0, 2, size=(5, 300, 2)).astype(float)
    fine = bca_many(values_SNM, CrossedResamples(rng_seed=0, resamples=8000))
    kinds = bca_many(values_SNM, CategoryResamples(rng_seed=9, resamples=8000))
    for limit in ("low", "high"):
        error_M = np.hypot(getattr(fine, f"{limit}_error_M"), getattr(kinds, f"{limit}_error_M"))
        gap_M = getattr(fine, f"{limit}_M") - getattr(kinds, f"{limit}_M")
        # One score of the grid is the grain of a limit.
        assert (np.abs(gap_M) <= 4 * error_M + 1 / 1500).all()


def test_categories_refuse_fine_scores():
    values_N1 = np.random.default_rng(0).normal(size=(300, 1))
    with pytest.raises(StatsError, match="300 distinct units"):
        CategoryResamples(rng_seed=0).many(values_N1)


def test_two_way_many_equals_two_way_and_the_loops():
    values_SNM = mixed_table(8, (4, 12))
    values_SNM[:, :, 0] = 3.0
    many = two_way_many(values_SNM)
    low_M, high_M = many.interval(0.9)
    p_M = many.p_greater(0.1)
    assert many.degenerate_M.tolist() == [True, False, False, False, False]
    assert np.isnan([low_M[0], high_M[0], p_M[0]]).all()
    for m in range(1, 5):
        one = two_way(values_SNM[:, :, m])
        error, df = naive.satterthwaite(values_SNM[:, :, m])
        assert many.estimate_M[m] == pytest.approx(one.estimate, rel=1e-12)
        assert many.standard_error_M[m] == pytest.approx(one.standard_error, rel=1e-9)
        assert (many.standard_error_M[m], many.df_M[m]) == pytest.approx((error, df), rel=1e-9)
        assert many.df_M[m] == pytest.approx(one.df, rel=1e-9)
        assert (low_M[m], high_M[m]) == pytest.approx(one.interval(0.9), rel=1e-9)
        assert p_M[m] == pytest.approx(one.p_value(0.1, "greater"), rel=1e-9)


def test_constant_metrics_are_refused_masked_or_bounded():
    rng = np.random.default_rng(0)
    values_SNM = rng.integers(0, 2, size=(5, 40, 4)).astype(float)
    values_SNM[:, :, 1] = 1.0
    values_SNM[:, :, 3] = 0.0
    resampler = CrossedResamples(rng_seed=0, resamples=500)
    with pytest.raises(DegenerateDataError, match=r"nothing varies in metrics \[1, 3\]"):
        bca_many(values_SNM, resampler)
    masked = bca_many(values_SNM, resampler, undefined="mask")
    assert masked.defined_M.tolist() == [True, False, True, False]
    assert np.isnan(masked.low_M[[1, 3]]).all()
    assert np.isfinite(masked.low_M[[0, 2]]).all()
    with pytest.raises(DegenerateDataError, match="Metric 1"):
        masked.one(1)
    bounded = bca_many(values_SNM, resampler, value_range=(0.0, 1.0))
    share = exact_bound(40)
    assert bounded.exact_M.tolist() == [False, True, False, True]
    assert (bounded.low_M[1], bounded.high_M[1]) == pytest.approx((1 - share, 1.0))
    assert (bounded.low_M[3], bounded.high_M[3]) == pytest.approx((0.0, share))
    assert bounded.low_M[[0, 2]] == pytest.approx(masked.low_M[[0, 2]])


def test_seeds_that_cancel_are_no_certainty():
    """All seed means and all unit means are equal: refused, not an interval of no width."""
    grid = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert two_way(grid).degenerate
    with pytest.raises(DegenerateDataError, match="nothing varies"):
        bca_many(grid[:, :, None], CrossedResamples(rng_seed=0, resamples=200))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_number(value):
    values_NM = np.random.default_rng(0).normal(size=(10, 3))
    values_NM[4, 2] = value
    for resampler in (OneWayResamples(rng_seed=0), CategoryResamples(rng_seed=0)):
        with pytest.raises(DegenerateDataError, match=r"Metrics \[2\]"):
            bca_many(values_NM, resampler)
    with pytest.raises(DegenerateDataError, match=r"metrics \[2\]"):
        two_way_many(np.stack([values_NM, values_NM]))
    with pytest.raises(DegenerateDataError, match="not finite"):
        bca_interval(np.array([0.0, value, 1.0]), 0.5, 0.0)


@pytest.mark.parametrize(
    ("shape", "resampler"),
    [
        ((1, 3), OneWayResamples(rng_seed=0)),
        ((0, 3), OneWayResamples(rng_seed=0)),
        ((5, 0), OneWayResamples(rng_seed=0)),
        ((5, 4, 3), OneWayResamples(rng_seed=0)),
        ((5, 3), CrossedResamples(rng_seed=0)),
        ((1, 9, 3), CrossedResamples(rng_seed=0)),
        ((5, 1, 3), CrossedResamples(rng_seed=0)),
        ((1, 3), CategoryResamples(rng_seed=0)),
        ((1, 9, 3), CategoryResamples(rng_seed=0)),
        ((9,), CategoryResamples(rng_seed=0)),
    ],
)
def test_shapes_without_a_resample_are_refused(shape, resampler):
    with pytest.raises(DegenerateDataError, match="shape"):
        bca_many(np.zeros(shape), resampler)


def test_settings_without_meaning_are_refused():
    values_NM = np.random.default_rng(0).normal(size=(10, 3))
    resampler = OneWayResamples(rng_seed=0, resamples=50)
    for level in (0.0, 1.0, 95.0, float("nan")):
        with pytest.raises(StatsError, match="level"):
            bca_many(values_NM, resampler, level=level)
    with pytest.raises(StatsError, match="ties"):
        bca_many(values_NM, resampler, ties="half")
    with pytest.raises(StatsError, match="undefined"):
        bca_many(values_NM, resampler, undefined="drop")
    with pytest.raises(StatsError, match="outside value_range"):
        bca_many(values_NM, resampler, value_range=(0.0, 1.0))
    for kind in (OneWayResamples, CrossedResamples, CategoryResamples):
        with pytest.raises(StatsError, match="at least 2"):
            kind(rng_seed=0, resamples=1)


def test_given_counts_are_checked():
    with pytest.raises(StatsError, match="Row 1 of the counts adds up to 2, not to its 3"):
        OneWayResamples.from_counts([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(StatsError, match="Expected counts"):
        OneWayResamples.from_counts([[0.5, 1.5]])
    with pytest.raises(StatsError, match="2 resamples of seeds, 1 of units"):
        CrossedResamples.from_counts([[1, 1], [2, 0]], [[1, 1, 1]])
    with pytest.raises(StatsError, match="of 2 units"):
        OneWayResamples.from_counts([[1, 1], [2, 0]]).many(np.zeros((3, 1)))
    with pytest.raises(StatsError, match="given for"):
        CrossedResamples.from_counts([[1, 1]] * 2, [[1, 1]] * 2).many(np.zeros((3, 2, 1)))


def test_large_tables_are_drawn_again_instead_of_kept(monkeypatch):
    values_SNM = mixed_table(0, (3, 20))
    kept = CrossedResamples(rng_seed=5, resamples=600)
    expected = kept.many(values_SNM).values_MB
    assert kept._kept
    monkeypatch.setattr("stats.bootstrap.crossed.KEEP_BYTES", 100)
    streamed = CrossedResamples(rng_seed=5, resamples=600)
    assert (streamed.many(values_SNM).values_MB == expected).all()
    assert not streamed._kept
