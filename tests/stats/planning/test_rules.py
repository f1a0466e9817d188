"""Power of a gate's whole rule against the noncentral t, and against simulated campaigns."""

from __future__ import annotations

import numpy as np
import pytest

from stats.errors import DegenerateDataError
from stats.planning.rules import PassRule, pass_power, refute_power, true_value_for
from stats.power import detectable, expected_error, power_of
from stats.twoway import VarianceComponents, two_way


@pytest.mark.parametrize("df", [1.0, 2.3, 4.0, 30.0])
@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_one_margin_is_the_noncentral_t(df, effect):
    expected = power_of(effect, 1.0, df)
    assert pass_power(PassRule(lower=0.0), effect, 1.0, df) == pytest.approx(expected, abs=1e-6)
    assert pass_power(PassRule(upper=0.0), -effect, 1.0, df) == pytest.approx(expected, abs=1e-6)
    assert refute_power(PassRule(lower=0.0), -effect, 1.0, df) == pytest.approx(expected, abs=1e-6)


def test_a_min_point_at_the_true_value_halves_the_power():
    rule = PassRule(lower=0.0, point=5.0)
    assert pass_power(rule, 5.0, 1.0, 30.0) == pytest.approx(0.5, abs=0.01)
    assert pass_power(rule, 5.0, 1.0, 30.0, with_point=False) > 0.99


def test_equivalence_needs_both_sides():
    rule = PassRule(lower=-0.1, upper=0.1)
    one = power_of(0.1, 0.03, 50.0)
    assert pass_power(rule, 0.0, 0.03, 50.0) == pytest.approx(2 * one - 1, abs=1e-3)
    assert pass_power(rule, 0.0, 0.2, 50.0) < 0.01
    assert true_value_for(rule, 0.2, 50.0) is None
    assert true_value_for(rule, 0.01, 50.0) == 0.0


def test_the_needed_true_value_has_the_power():
    plain = true_value_for(PassRule(lower=0.0), 1.0, 6.0)
    assert plain == pytest.approx(detectable(1.0, 6.0), abs=1e-3)
    rule = PassRule(lower=0.0, point=8.0)
    needed = true_value_for(rule, 1.0, 6.0)
    assert needed > 8.0
    assert pass_power(rule, needed, 1.0, 6.0) == pytest.approx(0.8, abs=1e-6)
    below = true_value_for(PassRule(upper=1.0), 1.0, 6.0)
    assert below == pytest.approx(1.0 - plain, abs=1e-6)


def test_a_rule_needs_a_margin():
    with pytest.raises(DegenerateDataError, match="needs a margin"):
        PassRule(point=1.0)


@pytest.mark.parametrize(
    ("parts", "tolerance"),
    [
        # Monte-Carlo error of 1,500 campaigns is 1.3 points; the rest is Satterthwaite's.
        (VarianceComponents(seed=0.0, example=0.5, residual=1.0), 0.04),
        (VarianceComponents(seed=0.02, example=0.5, residual=1.0), 0.05),
        (VarianceComponents(seed=0.2, example=0.5, residual=1.0), 0.05),
    ],
)
def test_power_of_the_whole_rule_by_simulation(parts, tolerance):
    num_seeds, num_units, runs = 5, 40, 1500
    rng = np.random.default_rng(11)
    error, df = expected_error(parts, num_seeds, num_units)
    effect = detectable(error, df, power=0.6)
    rule = PassRule(lower=0.0, point=0.8 * effect)
    grids = (
        effect
        + parts.seed**0.5 * rng.normal(size=(runs, num_seeds, 1))
        + parts.example**0.5 * rng.normal(size=(runs, 1, num_units))
        + parts.residual**0.5 * rng.normal(size=(runs, num_seeds, num_units))
    )
    passed = cleared = 0
    for grid in grids:
        found = two_way(grid)
        above = found.interval()[0] > 0.0
        cleared += above
        passed += above and found.estimate >= rule.point
    expected = pass_power(rule, effect, error, df)
    assert passed / runs == pytest.approx(expected, abs=tolerance)
    assert cleared / runs == pytest.approx(0.6, abs=tolerance)
