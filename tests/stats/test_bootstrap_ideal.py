"""The ideal bootstrap against enumeration, the binomial law, full convolution and many draws."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import irfft, rfft
from scipy.stats import binom

from stats import naive
from stats.bootstrap import OneWayResamples, bca_ideal, bca_many
from stats.bootstrap.coarse_sums import CoarseSums
from stats.bootstrap.fine_sums import FineSums, half_periods
from stats.errors import DegenerateDataError, MagnitudeError, StatsError


def standardised(values_N):
    centred_N = values_N - values_N.mean()
    return centred_N / math.sqrt(float(centred_N @ centred_N))


@pytest.mark.parametrize(
    "values",
    [
        [0, 0, 0, 1, 1, 1, 1],
        [-1, 0, 0, 1, 1, 1],
        [0, 1 / 3, 2 / 3, 1, 1, 1],
        [0.1, 0.4, 1.0, 0.7, 0.7, 0.7],
    ],
)
def test_limits_are_those_of_every_resample(values):
    values_N = np.array(values, dtype=float)
    ordered = naive.every_resample(values_N)
    assert len(ordered) == len(values_N) ** len(values_N)
    estimate = float(values_N.mean())
    ties = sum(abs(mean - estimate) < 1e-12 for mean in ordered)
    below = sum(mean < estimate - 1e-12 for mean in ordered)
    normal = NormalDist()
    z0 = normal.inv_cdf((below + ties / 2) / len(ordered))
    acceleration = naive.acceleration(values_N[None])
    found = bca_ideal(values_N[:, None], level=0.9)
    assert found.coarse_M[0]
    for limit_M, tail in ((found.low_M, 0.05), (found.high_M, 0.95)):
        shifted = z0 + normal.inv_cdf(tail)
        at = normal.cdf(z0 + shifted / (1 - acceleration * shifted))
        assert limit_M[0] == pytest.approx(ordered[math.ceil(at * len(ordered)) - 1], abs=1e-12)


@pytest.mark.parametrize(("hits", "num_units"), [(30, 100), (2, 1000), (999, 1000), (480, 1000)])
def test_binary_scores_have_the_binomial_law(hits, num_units):
    values_N = (np.arange(num_units) < hits).astype(float)
    sums = CoarseSums.of(standardised(values_N)[None])
    share = hits / num_units
    mid = binom.cdf(hits, num_units, share) - 0.5 * binom.pmf(hits, num_units, share)
    assert sums.mid_share()[0] == pytest.approx(mid, abs=1e-9)
    spread = math.sqrt(num_units * share * (1 - share))
    for probability in (0.001, 0.025, 0.3, 0.975, 0.999):
        found = sums.quantile(np.array([probability]))[0] * spread + hits
        assert round(float(found)) == binom.ppf(probability, num_units, share)
        assert found == pytest.approx(round(float(found)), abs=1e-9)


def convolved(steps_N):
    """Cumulated probabilities of the sum of N draws of integers from 0, on its whole support."""
    num_units = len(steps_N)
    size = 2 ** math.ceil(math.log2(num_units * int(steps_N.max()) + 1))
    spectrum = rfft(np.bincount(steps_N, minlength=size) / num_units)
    return np.cumsum(irfft(spectrum**num_units, size))


@pytest.mark.parametrize("kind", ["normal", "lognormal", "outlier", "mostly zero"])
def test_the_series_equals_the_full_convolution(kind):
    """On a lattice so fine that the series sees none: a step is at most 1e-3 of the SD."""
    rng = np.random.default_rng(4)
    values_N = {
        "normal": rng.normal(size=300),
        "lognormal": rng.lognormal(size=300),
        "outlier": np.r_[rng.normal(size=299), 40.0],
        "mostly zero": np.where(rng.random(300) < 0.5, 0.0, rng.exponential(size=300)),
    }[kind]
    steps_N = np.rint((values_N - values_N.min()) / np.ptp(values_N) * 5_000).astype(int)
    cumulated = convolved(steps_N)
    unit_N = standardised(steps_N.astype(float))
    sums = FineSums.of(unit_N[None])
    assert sums.resolved_M.all()
    spread = float(np.sqrt(((steps_N - steps_N.mean()) ** 2).sum()))
    for z in (-3.0, -1.9, -0.4, 0.0, 0.7, 2.1, 3.3):
        point = math.floor(steps_N.sum() + z * spread)
        # The series is continuous: between two points it passes through the mean of both shares.
        expected = 0.5 * (cumulated[point] + cumulated[point - 1])
        at = (point - steps_N.sum()) / spread
        share = sums.share_below(np.array([at]))
        assert share[0] == pytest.approx(expected, abs=2e-9)
        again = sums.share_below(sums.quantile(share))
        assert again[0] == pytest.approx(share[0], abs=1e-10)


@pytest.mark.parametrize("num_units", [60, 400])
def test_limits_are_those_to_which_drawn_resamples_tend(num_units):
    rng = np.random.default_rng(num_units)
    values_NM = np.stack(
        [
            rng.normal(size=num_units),
            rng.exponential(size=num_units),
            rng.standard_t(3, size=num_units) + 50,
            rng.integers(0, 2, size=num_units),
            rng.integers(0, 4, size=num_units) / 3,
        ],
        axis=1,
    )
    found = bca_ideal(values_NM, level=0.9)
    drawn = bca_many(values_NM, OneWayResamples(rng_seed=5, resamples=60_000), level=0.9)
    assert found.coarse_M.tolist() == [False, False, False, True, True]
    assert found.estimate_M == pytest.approx(drawn.estimate_M, rel=1e-12)
    grain_M = np.array([0.0, 0.0, 0.0, 1.0, 1 / 3]) / num_units
    for limit in ("low", "high"):
        gap_M = np.abs(getattr(found, f"{limit}_M") - getattr(drawn, f"{limit}_M"))
        assert (gap_M <= 4 * getattr(drawn, f"{limit}_error_M") + 1.001 * grain_M).all()


def test_no_probability_lies_outside_the_period():
    """One unit far off makes the sum a Poisson number: the worst case of Bennett's inequality."""
    half = float(half_periods(np.array([1.0]))[0])
    assert binom.sf(math.floor(half), 1000, 1 / 1000) < 1e-11
    assert (np.diff(half_periods(np.array([0.01, 0.05, 0.2, 1.0]))) > 0).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    shift=st.integers(-64, 64),
    power=st.integers(-30, 30),
    coarse=st.booleans(),
)
def test_shift_scale_sign_order_and_copies(seed, shift, power, coarse):
    rng = np.random.default_rng(seed)
    column_N = rng.integers(0, 3, size=80) * 1.0 if coarse else rng.normal(size=80)
    if np.ptp(column_N) == 0:
        return
    plain = bca_ideal(column_N[:, None])
    scale = 2.0**power
    size = 1e-8 * (scale + abs(shift))
    moved = bca_ideal(np.stack([column_N * scale + shift, rng.permutation(column_N)], axis=1))
    assert moved.low_M[0] == pytest.approx(plain.low_M[0] * scale + shift, abs=size)
    assert moved.high_M[0] == pytest.approx(plain.high_M[0] * scale + shift, abs=size)
    assert moved.low_M[1] == pytest.approx(plain.low_M[0], abs=1e-8)
    turned = bca_ideal(-column_N[:, None])
    # A quantile of a lattice is the least point that has it, from either side another one.
    grain = 1.001 / 80 if coarse else 1e-8
    assert turned.low_M[0] == pytest.approx(-plain.high_M[0], abs=grain)
    assert turned.high_M[0] == pytest.approx(-plain.low_M[0], abs=grain)
    assert column_N.min() <= plain.low_M[0] < plain.high_M[0] <= column_N.max()


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_very_small_and_very_large_scores(size):
    values_NM = np.random.default_rng(0).normal(size=(200, 2))
    plain, scaled = bca_ideal(values_NM), bca_ideal(values_NM * size)
    assert scaled.low_M / size == pytest.approx(plain.low_M, abs=1e-8)


def test_what_is_neither_coarse_nor_fine_is_refused():
    """Never a number that was not computed: near-lattices, few units, one score in two million."""
    rng = np.random.default_rng(0)
    columns = {
        "binary with jitter": rng.integers(0, 2, size=500) + 1e-7 * rng.normal(size=500),
        "two steps without a common one": rng.choice([0.0, 1.0, math.sqrt(2)], size=500),
        "one far off": np.r_[rng.normal(size=499), 1e7],
    }
    values_NM = np.stack([rng.normal(size=500), *columns.values()], axis=1)
    with pytest.raises(StatsError, match=r"metrics \[1, 2, 3\] are neither .* OneWayResamples"):
        bca_ideal(values_NM)
    masked = bca_ideal(values_NM, undefined="mask")
    assert masked.defined_M.tolist() == [True, False, False, False]
    assert np.isnan(masked.low_M[1:]).all()
    assert np.isfinite(masked.low_M[0])
    with pytest.raises(StatsError, match="with 9 units"):
        bca_ideal(rng.normal(size=(9, 1)))


def test_constant_and_broken_metrics_are_refused_by_number():
    values_NM = np.random.default_rng(0).integers(0, 2, size=(40, 3)).astype(float)
    values_NM[:, 1] = 0.3
    with pytest.raises(DegenerateDataError, match=r"nothing varies in metrics \[1\]"):
        bca_ideal(values_NM)
    assert bca_ideal(values_NM, undefined="mask").defined_M.tolist() == [True, False, True]
    for value in (np.nan, np.inf, -np.inf):
        values_NM[3, 2] = value
        with pytest.raises(DegenerateDataError, match=r"Metrics \[2\] hold NaN"):
            bca_ideal(values_NM)
    with pytest.raises(MagnitudeError, match=r"Metrics \[0\] span"):
        bca_ideal(np.array([[1e308], [-1e308]]))
    for shape in ((1, 3), (5, 0), (4,), (2, 3, 4)):
        with pytest.raises(DegenerateDataError, match="shape"):
            bca_ideal(np.zeros(shape))
    with pytest.raises(StatsError, match="level"):
        bca_ideal(values_NM[:, :1], level=95)
    with pytest.raises(StatsError, match="undefined"):
        bca_ideal(values_NM[:, :1], undefined="drop")


def test_a_limit_past_the_pole_is_not_invented():
    values_N1 = np.r_[np.zeros(3), 1.0][:, None]
    with pytest.raises(DegenerateDataError, match="beyond every resample"):
        bca_ideal(values_N1, level=1 - 1e-12)
