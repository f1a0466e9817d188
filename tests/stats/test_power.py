from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from stats.errors import DegenerateDataError
from stats.noncentral import noncentrality
from stats.power import (
    MAX_SEEDS,
    cheapest,
    detectable,
    expected_error,
    fewest_seeds,
    fewest_units,
    mde,
    power_of,
)
from stats.twoway import VarianceComponents, two_way

PARTS = VarianceComponents(seed=0.007**2, example=0.1, residual=0.1)


def test_many_degrees_of_freedom_give_the_normal_formula():
    expected = float(ndtri(0.975) + ndtri(0.8)) * 0.02
    assert detectable(0.02, 1e6) == pytest.approx(expected, rel=1e-4)
    assert power_of(expected, 0.02, 1e6) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("df", [1.0, 1.7, 4.0, 30.0])
def test_detectable_has_the_power_that_it_states(df):
    assert power_of(detectable(1.0, df), 1.0, df) == pytest.approx(0.8, abs=1e-6)


def test_power_at_the_mde_by_simulation():
    """600 grids: 80 % +- 4 Monte-Carlo errors is 73.5 to 86.5 %."""
    rng = np.random.default_rng(5)
    parts = VarianceComponents(seed=0.02, example=1.0, residual=1.0)
    effect = mde(parts, 5, 60)
    found = 0
    for _ in range(600):
        grid = (
            effect
            + 0.02**0.5 * rng.normal(size=(5, 1))
            + rng.normal(size=(1, 60))
            + rng.normal(size=(5, 60))
        )
        found += two_way(grid).p_value(0.0, "greater") < 0.025
    assert 0.735 <= found / 600 <= 0.865


def test_fewest_are_just_enough():
    effect = 0.04
    assert power_of(1000.0, 1.0, 1.0) == pytest.approx(1.0, abs=1e-3)
    units = fewest_units(PARTS, 5, effect)
    seeds = fewest_seeds(PARTS, 1000, effect)
    assert mde(PARTS, 5, units) <= effect < mde(PARTS, 5, units - 1)
    assert mde(PARTS, seeds, 1000) <= effect < mde(PARTS, seeds - 1, 1000)
    best = cheapest(PARTS, effect)
    assert best.mde <= effect
    assert best.seeds * (best.units + 1000) <= min(5 * (units + 1000), seeds * 2000)


def test_what_no_number_of_examples_can_decide():
    noisy = VarianceComponents(seed=0.03**2, example=0.1, residual=0.1)
    assert fewest_units(noisy, 3, 0.01) is None
    assert fewest_seeds(noisy, 10, 1e-6) is None
    assert 2 < fewest_seeds(noisy, 5000, 0.03) < MAX_SEEDS


def test_expected_error_agrees_with_the_analysis_of_a_grid():
    rng = np.random.default_rng(2)
    grid = rng.normal(size=(6, 1)) + rng.normal(size=(1, 50)) + rng.normal(size=(6, 50))
    found = two_way(grid)
    assert expected_error(found.components, 6, 50) == pytest.approx(
        (found.standard_error, found.df), rel=1e-9
    )


@pytest.mark.parametrize(("t", "df"), [(37.0, 2.0), (300.0, 2.0), (1000.0, 4.0), (-80.0, 1.0)])
def test_noncentrality_of_huge_t(t, df):
    """scipy's distribution function is NaN on the far side; the two limits exist all the same."""
    low, high = noncentrality(t, df, 0.9943), noncentrality(t, df, 0.0057)
    assert low < t < high
    draws = np.random.default_rng(3)
    spread = np.sqrt(draws.chisquare(df, size=200_000) / df)
    for shift, probability in ((low, 0.9943), (high, 0.0057)):
        found = np.mean(ndtr(t * spread - shift))
        assert found == pytest.approx(probability, abs=1.5e-3)


def test_no_variance_has_no_mde():
    with pytest.raises(DegenerateDataError):
        mde(VarianceComponents(seed=0, example=0, residual=0), 5, 100)
