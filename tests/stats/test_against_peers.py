"""Given the same resamples, scipy's interval; given the same grid, statsmodels' standard error.

scipy draws indices with `rng.integers`; the same call here, counted, gives the same resamples.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from stats.bootstrap import CrossedResamples, OneWayResamples, bca_many
from stats.bootstrap.draws import count
from stats.twoway import two_way

BINARY, THIRDS, NORMAL, SKEWED = "binary", "thirds", "normal", "skewed"


def scores(kind, shape, rng):
    if kind == BINARY:
        return rng.integers(-1, 2, size=shape).astype(float)
    if kind == THIRDS:
        return rng.integers(0, 4, size=shape) / 3
    return rng.normal(size=shape) if kind == NORMAL else rng.exponential(size=shape) * 1e3


def scipys(values, level, resamples, rng_seed):
    """scipy on all columns at once, and the counts of the resamples that it drew."""
    num_units = len(values)
    result = scipy_bootstrap(
        (values.T,),
        np.mean,
        axis=-1,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=level,
        batch=50,
        rng=np.random.default_rng(rng_seed),
    )
    rng = np.random.default_rng(rng_seed)
    parts = [rng.integers(0, num_units, (50, num_units)) for _ in range(resamples // 50)]
    return result, count(np.concatenate(parts), num_units)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("kind", [BINARY, NORMAL, SKEWED])
def test_interval_equals_scipys(kind, level):
    values_NM = scores(kind, (80, 6), np.random.default_rng(5))
    result, counts_BN = scipys(values_NM, level, 1000, 17)
    ours = bca_many(values_NM, OneWayResamples.from_counts(counts_BN), level=level, ties="scipy")
    size = np.abs(values_NM).max()
    assert ours.low_M / size == pytest.approx(result.confidence_interval.low / size, abs=1e-12)
    assert ours.high_M / size == pytest.approx(result.confidence_interval.high / size, abs=1e-12)
    distribution = OneWayResamples.from_counts(counts_BN).many(values_NM).values_MB
    assert distribution / size == pytest.approx(result.bootstrap_distribution / size, abs=1e-14)


@pytest.mark.parametrize("kind", [BINARY, NORMAL])
def test_tie_rules_agree_where_ties_are_exact(kind):
    values_NM = scores(kind, (60, 4), np.random.default_rng(6))
    resampler = OneWayResamples(rng_seed=0, resamples=800)
    with_tolerance = bca_many(values_NM, resampler)
    without = bca_many(values_NM, resampler, ties="scipy")
    assert (with_tolerance.low_M == without.low_M).all()
    assert (with_tolerance.high_M == without.high_M).all()


def test_scipy_breaks_ties_by_rounding():
    """Thirds are no binary fractions: scipy's replicates that equal the mean differ in last bits.

    The exact tie share comes from integers (values x 3). The fast path finds it; scipy's own
    replicates, compared as scipy compares them, do not.
    """
    values_N1 = scores(THIRDS, (40, 1), np.random.default_rng(2))
    result, counts_BN = scipys(values_N1, 0.95, 2000, 3)
    whole_N = np.rint(values_N1[:, 0] * 3).astype(int)
    sums_B = counts_BN.astype(int) @ whole_N
    exact_ties = int((sums_B == whole_N.sum()).sum())
    assert exact_ties > 50
    found = OneWayResamples.from_counts(counts_BN).many(values_N1)
    close_B = np.abs(found.values_MB[0] - found.estimate_M[0]) <= found.tie_tolerance_M[0]
    assert int(close_B.sum()) == exact_ties
    scipys_ties = int((result.bootstrap_distribution[0] == values_N1[:, 0].mean()).sum())
    assert scipys_ties < exact_ties


@pytest.mark.parametrize("kind", [BINARY, SKEWED])
def test_crossed_interval_equals_scipys_with_two_samples(kind):
    """scipy resamples two index samples independently: seeds and units."""
    values_SN = scores(kind, (6, 25), np.random.default_rng(8))
    result = scipy_bootstrap(
        (np.arange(6), np.arange(25)),
        lambda s, i: values_SN[np.ix_(s, i)].mean(),
        vectorized=False,
        n_resamples=400,
        rng=np.random.default_rng(4),
    )
    rng = np.random.default_rng(4)
    seeds, units = (rng.integers(0, size, (400, size)) for size in (6, 25))
    ours = bca_many(
        values_SN[:, :, None],
        CrossedResamples.from_counts(count(seeds, 6), count(units, 25)),
        calibrated=False,
        ties="scipy",
    )
    size = np.abs(values_SN).max()
    expected = np.array(tuple(result.confidence_interval)) / size
    assert np.r_[ours.low_M, ours.high_M] / size == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("num_seeds", "num_units", "seed_sd", "rng_seed"), [(5, 14, 1.0, 3), (3, 20, 2.0, 1)]
)
def test_standard_error_equals_the_mixed_models(num_seeds, num_units, seed_sd, rng_seed):
    """REML with crossed random effects: one group, variance components of seed and example.

    The components are inside their range here; at zero the mixed model's are cut off as ours are,
    but the residual is pooled and the standard errors part ways.
    """
    mixed_lm = pytest.importorskip("statsmodels.regression.mixed_linear_model").MixedLM
    rng = np.random.default_rng(rng_seed)
    values_SN = (
        seed_sd * rng.normal(size=(num_seeds, 1))
        + 2.0 * rng.normal(size=(1, num_units))
        + 1.5 * rng.normal(size=(num_seeds, num_units))
    )
    found = two_way(values_SN)
    assert min(found.components.seed, found.components.example) > 0.1
    seed_at, unit_at = np.indices(values_SN.shape)
    frame = pd.DataFrame({"s": seed_at.ravel(), "i": unit_at.ravel(), "y": values_SN.ravel()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = mixed_lm.from_formula(
            "y ~ 1",
            groups=np.ones(len(frame)),
            vc_formula={"seed": "0 + C(s)", "example": "0 + C(i)"},
            data=frame,
        ).fit(reml=True)
    assert found.standard_error == pytest.approx(float(fit.bse.iloc[0]), rel=1e-4)
    assert found.estimate == pytest.approx(float(fit.fe_params.iloc[0]), rel=1e-4)
    components = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    assert found.components.seed == pytest.approx(components["seed"], rel=2e-3)
    assert found.components.example == pytest.approx(components["example"], rel=2e-3)
    assert found.components.residual == pytest.approx(float(fit.scale), rel=2e-3)
