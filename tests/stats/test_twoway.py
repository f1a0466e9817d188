from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ttest_1samp

from stats import naive
from stats.errors import DegenerateDataError
from stats.twoway import exact_bound, two_way

GRIDS = arrays(
    np.float64,
    st.tuples(st.integers(2, 5), st.integers(2, 8)),
    elements=st.floats(-100, 100, width=32),
)


def draw(rng, num_seeds=5, num_units=40, seed_sd=1.0, unit_sd=2.0, sd=1.5, mean=0.0):
    return (
        mean
        + seed_sd * rng.normal(size=(num_seeds, 1))
        + unit_sd * rng.normal(size=(1, num_units))
        + sd * rng.normal(size=(num_seeds, num_units))
    )


def test_components_equal_the_loops():
    values_SN = draw(np.random.default_rng(0))
    found = two_way(values_SN)
    seed, unit, residual = naive.mean_squares(values_SN)
    assert found.components.seed == pytest.approx((seed - residual) / 40, rel=1e-10)
    assert found.components.example == pytest.approx((unit - residual) / 5, rel=1e-10)
    assert found.components.residual == pytest.approx(residual, rel=1e-10)
    top = unit + seed - residual
    assert found.standard_error == pytest.approx((top / 200) ** 0.5, rel=1e-10)
    df = top**2 / (seed**2 / 4 + unit**2 / 39 + residual**2 / 156)
    assert found.df == pytest.approx(df, rel=1e-10)


def test_rounding_is_no_component():
    """One cell in a hundred: all three mean squares are equal on paper, and not in their bits."""
    values_SN = np.zeros((5, 20))
    values_SN[0, 15] = 0.02
    components = two_way(values_SN).components
    assert (components.seed, components.example) == (0.0, 0.0)
    assert components.residual == pytest.approx(0.02**2 / 100)


def test_standard_error_equals_the_mixed_models():
    """statsmodels' REML fit with crossed random effects of seed and example."""
    mixed_lm = pytest.importorskip("statsmodels.regression.mixed_linear_model").MixedLM
    values_SN = draw(np.random.default_rng(3), num_seeds=5, num_units=14)
    frame = pd.DataFrame(
        [(s, i, values_SN[s, i]) for s in range(5) for i in range(14)], columns=["s", "i", "y"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mixed_lm.from_formula(
            "y ~ 1",
            groups=np.ones(len(frame)),
            vc_formula={"s": "0 + C(s)", "i": "0 + C(i)"},
            data=frame,
        )
        fit = model.fit(reml=True)
    assert two_way(values_SN).standard_error == pytest.approx(float(fit.bse.iloc[0]), rel=1e-4)


def test_without_example_effects_it_is_the_t_test_of_seed_means():
    values_SN = np.repeat(np.random.default_rng(1).normal(size=(5, 1)), 30, axis=1)
    found = two_way(values_SN)
    expected = ttest_1samp(values_SN[:, 0], 0.0, alternative="greater")
    assert found.df == pytest.approx(4.0)
    assert found.p_value(0.0, "greater") == pytest.approx(expected.pvalue, rel=1e-9)
    both = ttest_1samp(values_SN[:, 0], 0.0).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx(tuple(both), rel=1e-9)
    assert two_way(-values_SN).p_value(0.0, "less") == pytest.approx(expected.pvalue, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(values_SN=GRIDS, shift=st.integers(-50, 50), scale=st.sampled_from([0.25, 2.0, -4.0]))
def test_shift_and_scale(values_SN, shift, scale):
    plain, moved = two_way(values_SN), two_way(values_SN * scale + shift)
    size = float(np.abs(values_SN).max()) * abs(scale) + abs(shift) + 1
    assert moved.estimate == pytest.approx(plain.estimate * scale + shift, abs=1e-11 * size)
    assert moved.standard_error == pytest.approx(
        abs(scale) * plain.standard_error, rel=1e-6, abs=1e-7 * size
    )


@settings(max_examples=40, deadline=None)
@given(values_SN=GRIDS, rng_seed=st.integers(0, 2**32 - 1))
def test_permuting_seeds_or_examples_changes_nothing(values_SN, rng_seed):
    rng = np.random.default_rng(rng_seed)
    mixed = values_SN[rng.permutation(len(values_SN))][:, rng.permutation(values_SN.shape[1])]
    plain, other = two_way(values_SN), two_way(mixed)
    size = float(np.abs(values_SN).max()) + 1e-9
    assert other.estimate == pytest.approx(plain.estimate, abs=1e-12 * size)
    assert other.standard_error == pytest.approx(plain.standard_error, rel=1e-6, abs=1e-7 * size)


@settings(max_examples=40, deadline=None)
@given(value=st.floats(-1e6, 1e6), seeds=st.integers(2, 6), units=st.integers(2, 50))
def test_constant_grid_has_no_interval_and_no_p_value(value, seeds, units):
    found = two_way(np.full((seeds, units), value))
    assert found.degenerate
    assert found.estimate == value
    with pytest.raises(DegenerateDataError, match="zero"):
        found.interval()
    with pytest.raises(DegenerateDataError, match="zero"):
        found.p_value(0.0, "greater")


@pytest.mark.parametrize("shape", [(1, 10), (5, 1), (0, 3)])
def test_one_seed_or_one_example_is_refused(shape):
    with pytest.raises(DegenerateDataError, match="at least 2 x 2"):
        two_way(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(value):
    with pytest.raises(DegenerateDataError, match="NaN or infinite"):
        two_way(np.array([[0.0, 1.0], [2.0, value]]))


def test_exact_bound_is_clopper_pearson():
    from scipy.stats import binomtest

    limit = binomtest(0, 1000).proportion_ci(0.95, method="exact").high
    assert exact_bound(1000) == pytest.approx(limit, rel=1e-9)


def test_coverage_on_binary_differences(make_pair):
    """95 % intervals over 400 grids; 4 Monte-Carlo errors around 95 % are 90.6 to 99.4 %."""
    rng = np.random.default_rng(7)
    for base, seed_sd in ((0.5, 0.0), (0.9, 0.02), (0.5, 0.03)):
        hits = 0
        for _ in range(400):
            treatment, control = make_pair(
                rng, num_examples=120, base=base, seed_sd=seed_sd, shared=0.7
            )
            low, high = two_way(treatment - control).interval()
            hits += low <= 0.0 <= high
        assert 0.92 <= hits / 400 <= 0.995
