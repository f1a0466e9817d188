"""Conditional power: the chance that a gate still passes at the planned number of seeds.

    futility: {conditional_power_min: 0.1, from_seeds: 3}

With S of K seeds complete, the estimate m_S has variance V_S = sigma_i^2/N + (sigma_s^2 +
sigma_e^2/N)/S: the examples are the same at every look and only the rest shrinks. Then Cov(m_S,
m_K) = V_K, which makes the sequence of estimates a Brownian motion with information t = V_K/V_S
(the B-value of Lan and Wittes 1988; conditional power as in Lan, Simon and Halperin 1982):

    m_K | m_S  ~  N( t m_S + (1 - t) true,  V_K (1 - t) )
    CP = P( m_K > margin + t_crit sqrt(V_K)  and  m_K >= min_point | m_S )

with the variance components estimated so far, t_crit at the degrees of freedom that the full grid
is expected to have, and a favourable `true`: the better of the gate's stated alternative (its
min_point, or no difference) and the estimate so far; where the gate states none, one standard
error better than the estimate. A stop should not be the work of a bad start alone. A mission
passes only when all its required gates do, so one hopeless gate is enough.

The stop is non-binding: the gates are tested as if there were none. A stop can only take a
promotion away, so it cannot raise the false-positive rate. Measured with the two-way t, 5 seeds,
limit 10 % from 3 seeds on, seed SD from nothing to most of the error (2,000-3,000 campaigns
each): the power of 80 % falls by 0 to 0.3 points, and 3.2 to 3.6 of 5 seeds are run where there
is no effect. Knows no scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from scipy.special import ndtr, stdtrit

from stats.errors import DegenerateDataError
from stats.planning.rules import PassRule, rule_of
from stats.power import expected_error
from stats.result import GateResult
from stats.twoway import VarianceComponents


class FutilityConfig(BaseModel):
    """When a mission is stopped because it can hardly pass any more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conditional_power_min: float = Field(gt=0, le=0.5)
    """Stop where a required gate's conditional power falls below this."""
    from_seeds: int = Field(default=3, ge=2)
    """Complete seeds before a stop is considered; two say little about the variance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateChance:
    """Conditional power of one gate."""

    gate: str
    conditional_power: float
    true: float
    """Value that the remaining seeds were assumed to come from."""
    information: float
    """Share of the planned information that is in."""


def gate_chance(gate: GateResult, planned: int, *, alpha: float = 0.025) -> GateChance | None:
    """Conditional power of an evaluated gate; None where it tests no mean or nothing varied."""
    rule = rule_of(gate)
    if rule is None or gate.components is None or gate.estimate is None:
        return None
    if not gate.standard_error or len(gate.seeds) < 2 or gate.num_units < 2:
        return None
    true = _favourable(rule, gate.estimate, gate.assumed, gate.standard_error)
    chance, information = conditional_power(
        rule,
        gate.estimate,
        true,
        gate.components,
        done=len(gate.seeds),
        planned=planned,
        units=gate.num_units,
        alpha=alpha,
    )
    return GateChance(gate=gate.gate, conditional_power=chance, true=true, information=information)


def conditional_power(
    rule: PassRule,
    estimate: float,
    true: float,
    components: VarianceComponents,
    *,
    done: int,
    planned: int,
    units: int,
    alpha: float = 0.025,
) -> tuple[float, float]:
    """(conditional power, share of the information that is in)."""
    if not 2 <= done <= planned:
        raise DegenerateDataError(f"{done} of {planned} seeds: expected 2 to {planned} complete.")
    final_error, df = expected_error(components, planned, units)
    now = _variance(components, done, units)
    information = min(1.0, final_error**2 / now) if now > 0 else 1.0
    half = float(stdtrit(df, 1.0 - alpha)) * final_error
    low = -math.inf if rule.lower is None else rule.lower + half
    high = math.inf if rule.upper is None else rule.upper - half
    if rule.point is not None and rule.lower is not None:
        low = max(low, rule.point)
    elif rule.point is not None:
        high = min(high, rule.point)
    centre = information * estimate + (1.0 - information) * true
    spread = final_error * math.sqrt(max(1.0 - information, 0.0))
    if spread <= 1e-9 * final_error or final_error == 0.0:
        return float(low < centre < high), information
    inside = float(ndtr((high - centre) / spread) - ndtr((low - centre) / spread))
    return max(inside, 0.0), information


def hopeless(
    config: FutilityConfig, chances: Sequence[GateChance], *, done: int, planned: int
) -> GateChance | None:
    """The required gate that is least likely to pass, if that ends the mission."""
    if not chances or done < config.from_seeds or done >= planned:
        return None
    least = min(chances, key=lambda chance: chance.conditional_power)
    return least if least.conditional_power < config.conditional_power_min else None


def _variance(components: VarianceComponents, num_seeds: int, num_units: int) -> float:
    between = components.seed + components.residual / num_units
    return components.example / num_units + between / num_seeds


def _favourable(
    rule: PassRule, estimate: float, assumed: float | None, standard_error: float
) -> float:
    """The value that the remaining seeds are taken to come from."""
    stated = assumed is not None and assumed != estimate
    if rule.two_sided:
        assert rule.lower is not None
        assert rule.upper is not None
        middle = (rule.lower + rule.upper) / 2.0
        if assumed is not None and stated:
            return min((estimate, assumed), key=lambda value: abs(value - middle))
        step = min(standard_error, abs(middle - estimate))
        return estimate + math.copysign(step, middle - estimate)
    sign = 1.0 if rule.lower is not None else -1.0
    if assumed is not None and stated:
        return sign * max(sign * estimate, sign * assumed)
    return estimate + sign * standard_error
