from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from stats import naive
from stats.bootstrap import CrossedResamples, bca_interval, crossed_bca
from stats.bootstrap.draws import draw_counts
from stats.errors import DegenerateDataError
from stats.twoway import two_way


def draw(seed, shape=(5, 30), skew=False):
    rng = np.random.default_rng(seed)
    noise = rng.exponential(size=shape) if skew else rng.normal(size=shape)
    return noise + rng.normal(size=(shape[0], 1)) * 0.3 + 0.2


def draws(rng_seed, num_resamples, *sizes):
    rng = np.random.default_rng(rng_seed)
    return [rng.integers(0, size, (num_resamples, size)) for size in sizes]


@pytest.mark.parametrize("skew", [False, True])
def test_interval_equals_scipys_on_the_same_resamples(skew):
    """scipy draws one index block a sample with rng.integers; two samples make the crossing."""
    values_SN = draw(1, shape=(6, 25), skew=skew)
    result = scipy_bootstrap(
        (np.arange(6), np.arange(25)),
        lambda s, i: values_SN[np.ix_(s, i)].mean(),
        vectorized=False,
        n_resamples=500,
        method="BCa",
        rng=np.random.default_rng(11),
    )
    seed_draws, unit_draws = draws(11, 500, 6, 25)
    ours_B = naive.crossed_replicates(values_SN, seed_draws, unit_draws)
    assert ours_B == pytest.approx(result.bootstrap_distribution, abs=1e-13)
    ours = bca_interval(
        result.bootstrap_distribution, float(values_SN.mean()), naive.acceleration(values_SN)
    )
    assert (ours.low, ours.high) == pytest.approx(tuple(result.confidence_interval), abs=1e-12)


def test_fast_replicates_equal_the_loops_and_scipy():
    values_SN = draw(2, shape=(4, 12), skew=True)
    resampler = CrossedResamples(rng_seed=5, resamples=300)
    fast = resampler.replicates(values_SN)
    seed_counts_BS, unit_counts_BN = resampler._kept[(4, 12)]
    seed_draws = np.array([np.repeat(np.arange(4), row.astype(int)) for row in seed_counts_BS])
    unit_draws = np.array([np.repeat(np.arange(12), row) for row in unit_counts_BN])
    slow_B = naive.crossed_replicates(values_SN, seed_draws, unit_draws)
    assert fast.values_B == pytest.approx(slow_B, abs=1e-12)
    assert fast.estimate == pytest.approx(float(values_SN.mean()), abs=1e-12)
    assert fast.acceleration == pytest.approx(naive.acceleration(values_SN), rel=1e-9)


def test_closed_form_deviation_is_that_of_the_replicates():
    replicates = CrossedResamples(rng_seed=0, resamples=20_000).replicates(draw(3))
    # Standard error of a standard deviation from 20,000 draws: 0.5 %.
    assert float(replicates.values_B.std()) == pytest.approx(
        replicates.standard_deviation, rel=0.02
    )


def test_counts_are_multinomial():
    counts = draw_counts(np.random.default_rng(0), 4000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.08)
    assert counts.var() == pytest.approx(6 / 7, rel=0.05)


def test_calibrated_width_is_the_two_way_width():
    for seed in range(4):
        values_SN = draw(seed)
        interval = crossed_bca(values_SN, CrossedResamples(rng_seed=1))
        low, high = two_way(values_SN).interval()
        assert interval.high - interval.low == pytest.approx(high - low, rel=0.08)
        plain = crossed_bca(values_SN, CrossedResamples(rng_seed=1), calibrated=False)
        assert plain.calibration == 1.0
        ratio = (interval.high - interval.low) / (plain.high - plain.low)
        assert ratio == pytest.approx(interval.calibration, rel=1e-9)


def test_ties_count_half_on_binary_scores(make_pair):
    treatment, control = make_pair(np.random.default_rng(4), num_examples=40)
    difference_SN = treatment - control
    replicates = CrossedResamples(rng_seed=2, resamples=4000).replicates(difference_SN)
    exact = np.rint(replicates.values_B * difference_SN.size).astype(int)
    ties = exact == round(float(difference_SN.sum()))
    close = np.abs(replicates.values_B - replicates.estimate) <= replicates.tie_tolerance
    assert 0 < ties.sum() < 4000
    assert (ties == close).all()


def test_replicates_do_not_depend_on_what_was_asked_before():
    first, second = draw(1), draw(2)
    resampler = CrossedResamples(rng_seed=9, resamples=700)
    resampler.replicates(second)
    resampler.replicates(draw(3, shape=(3, 11)))
    after = resampler.replicates(first)
    fresh = CrossedResamples(rng_seed=9, resamples=700).replicates(first)
    assert (after.values_B == fresh.values_B).all()
    assert (CrossedResamples(rng_seed=8, resamples=700).replicates(first).values_B
            != fresh.values_B).any()  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), shift=st.integers(-64, 64), power=st.integers(-8, 8))
def test_dyadic_shift_and_scale_are_exact(seed, shift, power):
    grid = np.random.default_rng(seed).integers(0, 5, size=(4, 9)).astype(float)
    if np.ptp(grid) == 0:
        return
    resampler = CrossedResamples(rng_seed=1, resamples=200)
    plain = resampler.replicates(grid)
    moved = resampler.replicates(grid * 2.0**power + shift)
    assert moved.values_B == pytest.approx(plain.values_B * 2.0**power + shift, abs=1e-12 * 70)


def test_monte_carlo_error_is_the_spread_over_repetitions():
    """Over 150 repetitions a standard deviation is known to 6 %; the formula may be 30 % off."""
    values_SN = draw(6, skew=True)
    analysis = two_way(values_SN)
    found = [
        crossed_bca(values_SN, CrossedResamples(rng_seed=seed, resamples=1500), analysis=analysis)
        for seed in range(150)
    ]
    for limit in ("low", "high"):
        spread = np.std([getattr(interval, limit) for interval in found], ddof=1)
        stated = np.mean([getattr(interval, f"{limit}_error") for interval in found])
        assert stated == pytest.approx(spread, rel=0.3)


def test_degenerate_data_have_no_interval():
    with pytest.raises(DegenerateDataError, match="variance is zero"):
        crossed_bca(np.ones((5, 10)), CrossedResamples(rng_seed=0))
    with pytest.raises(DegenerateDataError, match="BCa is not defined"):
        bca_interval(np.array([1.0, 2.0, 3.0]), 0.5, 0.0)
