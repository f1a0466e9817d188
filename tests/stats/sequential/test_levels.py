"""Nominal levels against published tables, scipy's multivariate normal, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import ndtri, stdtr
from scipy.stats import multivariate_normal
from sequential.normal_looks import normal_levels, obrien_fleming_per_side

from stats.errors import DegenerateDataError, StatsError
from stats.sequential.looks import LooksConfig
from stats.sequential.spending import obrien_fleming
from stats.sequential.t_process import overall_p, t_levels


def spent(share):
    return obrien_fleming(share, 0.025)


def test_published_bounds_of_five_looks():
    """Lan-DeMets O'Brien-Fleming bounds of ldbounds and gsDesign for two-sided 5 %."""
    levels = normal_levels([0.2, 0.4, 0.6, 0.8, 1.0], lambda t: obrien_fleming_per_side(t, 0.025))
    assert -ndtri(levels) == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)


def test_published_one_sided_levels():
    """The example of SeqBounds.jl (one-sided 5 %, quarters), given there to its grid's error."""
    levels = normal_levels([0.25, 0.5, 0.75, 1.0], lambda t: obrien_fleming_per_side(t, 0.05))
    assert levels == pytest.approx([8.85754e-5, 0.00554366, 0.0218979, 0.0427037], rel=2e-4)


def test_levels_spend_what_they_should_by_the_multivariate_normal():
    shares = np.array([0.4, 0.7, 1.0])
    bounds = -ndtri(normal_levels(shares, spent))
    ratio = np.minimum.outer(shares, shares) / np.maximum.outer(shares, shares)
    below = multivariate_normal(
        mean=np.zeros(3), cov=np.sqrt(ratio), seed=np.random.default_rng(0)
    ).cdf(bounds)
    assert 1.0 - below == pytest.approx(0.025, abs=2e-5)


def test_the_whole_level_is_spent_at_the_end():
    assert spent(1.0) == pytest.approx(0.025)
    assert spent(0.2) < 1e-5
    with pytest.raises(DegenerateDataError):
        obrien_fleming(1.2, 0.025)
    with pytest.raises(DegenerateDataError):
        obrien_fleming(0.5, 0.5)


def test_t_levels_of_looks_at_two_to_five_seeds():
    """Two-sided, simulated with the t of 2 million sets of 5 seeds: .00194 .00962 .0203 .0324."""
    two_sided = 2 * np.array(t_levels((2, 3, 4, 5), spent))
    assert two_sided == pytest.approx([0.00194, 0.00962, 0.02033, 0.03244], rel=0.01)


@pytest.mark.parametrize("looks", [(2, 3, 4, 5), (3, 5), (4, 7, 10)])
def test_repeated_t_tests_spend_what_they_should(looks):
    """100,000 campaigns: Monte-Carlo error of the last share is 0.05 points."""
    levels = t_levels(looks, spent)
    draws = np.random.default_rng(4).standard_normal((100_000, looks[-1]))
    crossed = np.zeros(len(draws), dtype=bool)
    for count, level in zip(looks, levels, strict=True):
        seen = draws[:, :count]
        t = seen.mean(axis=1) / seen.std(axis=1, ddof=1) * np.sqrt(count)
        crossed |= stdtr(count - 1, -t) < level
        expected = spent(count / looks[-1])
        assert crossed.mean() == pytest.approx(expected, abs=4 * (expected / len(draws)) ** 0.5)


def test_a_single_look_is_the_plain_test():
    assert t_levels((6,), spent) == pytest.approx([0.025], rel=1e-3)
    assert overall_p((6,), (0.025,), 0, 0.2) == pytest.approx(0.2, rel=1e-3)


def test_overall_p_at_the_levels_is_what_was_spent():
    looks = (2, 3, 4, 5)
    levels = t_levels(looks, spent)
    for at, count in enumerate(looks):
        assert overall_p(looks, levels, at, levels[at]) == pytest.approx(spent(count / 5), rel=1e-6)
    # A smaller p-value at a later look is still behind everything that an earlier one spent.
    assert overall_p(looks, levels, 3, 1e-9) == pytest.approx(spent(0.8), rel=1e-4)


@pytest.mark.parametrize("looks", [(1, 2), (3, 3), (4, 3), ()])
def test_impossible_looks(looks):
    with pytest.raises(DegenerateDataError, match="looks at"):
        t_levels(looks, spent)


def test_configuration_names_what_is_wrong():
    config = LooksConfig(at_seeds=(3, 5))
    assert config.nominal(5, 0.025) < 0.025
    with pytest.raises(StatsError, match="No look at 4"):
        config.nominal(4, 0.025)
    with pytest.raises(ValueError, match="10 seeds are planned"):
        config.check_plan(10)
    for bad in ([1, 5], [5, 3], [3, 3], [3, 51]):
        with pytest.raises(ValidationError, match="must increase from 2"):
            LooksConfig(at_seeds=tuple(bad))
    with pytest.raises(ValidationError, match="spendings"):
        LooksConfig.model_validate({"at_seeds": [3, 5], "spendings": "pocock"})
