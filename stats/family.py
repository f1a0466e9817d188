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

from stats.fdr import benjamini_hochberg, benjamini_yekutieli, fcr_level
from stats.inference import EXACT
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
        )
        for at, primary in enumerate(primaries)
    ]


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
    half = float(stdtrit(gate.df, 0.5 + level / 2)) * gate.standard_error
    return Interval(
        low=gate.estimate - half,
        high=gate.estimate + half,
        level=level,
        method="two-way Satterthwaite t, FCR-adjusted",
    )


def _names(places: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    missions = [mission for mission, _ in places]
    return tuple(
        mission if missions.count(mission) == 1 else f"{mission}/{arm}" for mission, arm in places
    )
