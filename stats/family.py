"""Where verdicts stand among all that were tested together: BH, BY beside it, FCR intervals.

A member of the family is a treatment arm of a mission, with one p-value. Benjamini-Hochberg
decides; Benjamini-Yekutieli, which holds under any dependence, stands beside it; the primary gate
of each selected member gets an interval at the false-coverage-adjusted level 1 - R q / m (Benjamini
and Yekutieli 2005). Knows no missions' content and no scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from stats.deciding import deciding_sizes
from stats.fdr import benjamini_hochberg, benjamini_yekutieli, fcr_level
from stats.inference import EXACT, SCORE, TWO_WAY
from stats.planning.rules import rule_of
from stats.proportion import planning_factor, score_limits
from stats.result import GateResult, Interval
from stats.twoway import exact_bound


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyResult:
    """Where a mission stands among all that were tested together."""

    family: tuple[str, ...]
    """Its members: missions, or mission/arm where several arms of a mission are judged."""
    q: float
    p_bh: float
    """Benjamini-Hochberg adjusted."""
    p_by: float
    """Benjamini-Yekutieli adjusted: a sensitivity check under any dependence."""
    selected: bool
    """p_bh <= q."""
    fcr_interval: Interval | None
    """Interval of the primary gate at the false-coverage-adjusted level; selected ones only."""
    needed_p: float | None = None
    """The p-value at which this member would be selected if the others' stayed as they are."""


def standings(
    places: Sequence[tuple[str, str]],
    p_values: Sequence[float],
    primaries: Sequence[GateResult],
    *,
    q: float,
) -> list[FamilyResult]:
    """One standing a member.

    Args:
        places: (mission, treatment arm) of each member.
        primaries: their primary gates, whose intervals are adjusted.
    """
    adjusted, dependent = benjamini_hochberg(p_values), benjamini_yekutieli(p_values)
    selected = [bool(value <= q) for value in adjusted]
    level = fcr_level(sum(selected), len(places), q)
    names = _names(places)
    return [
        FamilyResult(
            family=names,
            q=q,
            p_bh=float(adjusted[at]),
            p_by=float(dependent[at]),
            selected=selected[at],
            fcr_interval=interval_at(primary, level) if selected[at] else None,
            needed_p=needed_p(p_values, at, q),
        )
        for at, primary in enumerate(primaries)
    ]


def needed_p(p_values: Sequence[float], at: int, q: float) -> float:
    """The largest p at which member `at` is selected, the others' p-values as they are.

    Benjamini-Hochberg selects the largest k with p_(k) <= k q / m. A p of k q / m does if at least
    k - 1 of the others are no larger.
    """
    others = [p for number, p in enumerate(p_values) if number != at]
    count = len(p_values)
    reached = [
        rank * q / count
        for rank in range(1, count + 1)
        if sum(p <= rank * q / count for p in others) >= rank - 1
    ]
    return max(reached)


def what_would_select(gate: GateResult, standing: FamilyResult, power: float = 0.8) -> str:
    """Sizes at which a gate that passes alone would pass among its family; empty if unknown."""
    rule = rule_of(gate)
    if rule is None or gate.components is None or gate.estimate is None or not gate.standard_error:
        return ""
    if standing.needed_p is None:
        return ""
    margin, components = rule.nearest(gate.estimate), gate.components
    if gate.interval is not None and gate.interval.method == SCORE:
        factor = planning_factor(gate.estimate, margin, alpha=standing.needed_p, power=power)
        components = components.times(factor)
    sizes = deciding_sizes(
        components,
        len(gate.seeds),
        gate.num_units,
        assumed=gate.estimate,
        margin=margin,
        alpha=standing.needed_p,
        power=power,
    )
    return (
        f"{gate.gate} needs p <= {standing.needed_p:.3g}; found with {100 * power:.0f} % power, if "
        f"the estimate is true, by {sizes.text}"
    )


def counted(family: Sequence[str]) -> str:
    """`5 missions`, or `7 arms of missions` where a mission has several."""
    if any("/" in name for name in family):
        return f"{len(family)} arms of missions"
    return f"{len(family)} missions" if len(family) != 1 else "1 mission"


def interval_at(gate: GateResult, level: float) -> Interval | None:
    """The interval of a gate at another level; None where it has none."""
    if gate.estimate is None or gate.interval is None:
        return None
    if gate.interval.method == EXACT:
        # The distances of the exact bound grow with the share that it bounds.
        share = exact_bound(gate.num_units, gate.interval.level)
        factor = exact_bound(gate.num_units, level) / share
        return Interval(
            low=gate.estimate - factor * (gate.estimate - gate.interval.low),
            high=gate.estimate + factor * (gate.interval.high - gate.estimate),
            level=level,
            method=f"{EXACT}, FCR-adjusted",
        )
    if not gate.standard_error or gate.df is None:
        return None
    if gate.interval.method == SCORE:
        low, high = score_limits(gate.estimate, gate.standard_error, gate.df, level)
        return Interval(low=low, high=high, level=level, method=f"{SCORE}, FCR-adjusted")
    half = float(stdtrit(gate.df, 0.5 + level / 2)) * gate.standard_error
    return Interval(
        low=gate.estimate - half,
        high=gate.estimate + half,
        level=level,
        method=f"{TWO_WAY}, FCR-adjusted",
    )


def _names(places: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    missions = [mission for mission, _ in places]
    return tuple(
        mission if missions.count(mission) == 1 else f"{mission}/{arm}" for mission, arm in places
    )
