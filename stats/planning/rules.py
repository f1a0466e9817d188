"""The pass rule of a gate as numbers, and how likely a grid is to pass or to refute it.

A gate that tests a mean passes when its two-way interval lies beyond a margin (`lower` or
`upper`, or both for a TOST) and, where it has a `min_point`, when the estimate reaches that too.
With the standard error se of the planned grid and its Satterthwaite df, the estimate is taken as
normal around the true value and the estimated variance as se^2 chi^2(df) / df, so that

    P(pass) = E[ Phi((high - true) / se) - Phi((low - true) / se) ],   0 where high < low,
    low  = max(lower + t s, point),   high = upper - t s,   s the estimated standard error,

the expectation over s by quadrature. For one margin and no point this is the noncentral t. Knows
no scores and no single gate kind: a rule is read off the record that every kind fills.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from stats.errors import DegenerateDataError
from stats.noncentral import spreads
from stats.result import GateResult


@dataclass(frozen=True, kw_only=True, slots=True)
class PassRule:
    """When a gate passes, on the scale of its estimate."""

    lower: float | None = None
    """The interval must lie above this."""
    upper: float | None = None
    """The interval must lie below this."""
    point: float | None = None
    """The estimate must reach this as well (from below with `lower`, from above with `upper`)."""

    def __post_init__(self) -> None:
        if self.lower is None and self.upper is None:
            raise DegenerateDataError("A pass rule needs a margin: lower, upper or both.")

    @property
    def two_sided(self) -> bool:
        return self.lower is not None and self.upper is not None

    def nearest(self, value: float) -> float:
        """The margin that a true `value` has to clear with the smallest distance."""
        margins = [margin for margin in (self.lower, self.upper) if margin is not None]
        return min(margins, key=lambda margin: abs(margin - value))

    def passing(self, value: float) -> bool:
        """Whether a true `value` lies on the passing side of every margin."""
        return (self.lower is None or value > self.lower) and (
            self.upper is None or value < self.upper
        )


def rule_of(gate: GateResult) -> PassRule | None:
    """The rule of an evaluated gate; None where it tests no mean (exact, descriptive, invalid)."""
    if gate.p_value is None or gate.standard_error is None or not gate.margins:
        return None
    low, high = min(gate.margins), max(gate.margins)
    if gate.passing_side == "within":
        return PassRule(lower=low, upper=high)
    if gate.passing_side == "above":
        return PassRule(lower=low, point=high if high > low else None)
    if gate.passing_side == "below":
        return PassRule(upper=high, point=low if low < high else None)
    return None


def pass_power(
    rule: PassRule,
    true: float,
    standard_error: float,
    df: float,
    *,
    alpha: float = 0.025,
    with_point: bool = True,
) -> float:
    """Probability that the gate passes if the estimate's true value is `true`.

    Args:
        with_point: False leaves the `min_point` part out: the power of the test alone.
    """
    spread_Q, weight_Q = spreads(df)
    half_Q = float(stdtrit(df, 1.0 - alpha)) * standard_error * spread_Q
    low_Q = np.full_like(half_Q, -np.inf)
    high_Q = np.full_like(half_Q, np.inf)
    if rule.lower is not None:
        low_Q = rule.lower + half_Q
    if rule.upper is not None:
        high_Q = rule.upper - half_Q
    if rule.point is not None and with_point:
        if rule.lower is not None:
            low_Q = np.maximum(low_Q, rule.point)
        else:
            high_Q = np.minimum(high_Q, rule.point)
    inside_Q = ndtr((high_Q - true) / standard_error) - ndtr((low_Q - true) / standard_error)
    return float(np.sum(weight_Q * np.maximum(inside_Q, 0.0)))


def refute_power(
    rule: PassRule, true: float, standard_error: float, df: float, *, alpha: float = 0.025
) -> float:
    """Probability that the gate is shown not to be reached (its FAIL), given the true value."""
    spread_Q, weight_Q = spreads(df)
    half_Q = float(stdtrit(df, 1.0 - alpha)) * standard_error * spread_Q
    found_Q = np.zeros_like(half_Q)
    if rule.lower is not None:
        needed = rule.lower if rule.point is None else max(rule.lower, rule.point)
        found_Q += ndtr((needed - half_Q - true) / standard_error)
    if rule.upper is not None:
        needed = rule.upper
        if rule.point is not None and rule.lower is None:
            needed = min(rule.upper, rule.point)
        found_Q += ndtr(-(needed + half_Q - true) / standard_error)
    return min(1.0, float(np.sum(weight_Q * found_Q)))


def true_value_for(
    rule: PassRule,
    standard_error: float,
    df: float,
    *,
    power: float = 0.8,
    alpha: float = 0.025,
) -> float | None:
    """The true value nearest to the margin at which the whole rule passes with this power.

    None for a two-sided rule that this grid never passes with this power.
    """
    if rule.two_sided:
        assert rule.lower is not None
        assert rule.upper is not None
        middle = (rule.lower + rule.upper) / 2.0
        reached = pass_power(rule, middle, standard_error, df, alpha=alpha) >= power
        return middle if reached else None
    sign = 1.0 if rule.lower is not None else -1.0
    margin = rule.lower if rule.lower is not None else rule.upper
    assert margin is not None
    start = margin if rule.point is None else sign * max(sign * margin, sign * rule.point)
    near, far = 0.0, standard_error
    while pass_power(rule, start + sign * far, standard_error, df, alpha=alpha) < power:
        near, far = far, 2.0 * far
        if not math.isfinite(far):
            return None
    for _ in range(60):
        middle = (near + far) / 2.0
        if pass_power(rule, start + sign * middle, standard_error, df, alpha=alpha) < power:
            near = middle
        else:
            far = middle
    return start + sign * far
