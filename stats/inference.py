"""Mean of a grid with everything a result shows: two-way t, calibrated BCa, MDE, exact rules.

Knows no gate: it is handed a grid of values whose mean is the quantity of interest (paired
differences, a linear contrast, one arm's scores) and gives the figures.

Shapes: S seeds, N units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stats.bootstrap import CrossedResamples, crossed_bca
from stats.errors import DegenerateDataError
from stats.power import cheapest, detectable, fewest_seeds, fewest_units
from stats.result import BootstrapInterval, Interval, WouldDecide
from stats.scores import FloatArray
from stats.twoway import Side, TwoWay, exact_bound, two_way

TWO_WAY = "two-way Satterthwaite t"
EXACT = "exact bound, nothing varied"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanInference:
    """What is known about the mean of one grid."""

    analysis: TwoWay
    interval: Interval | None
    """None where nothing varied and no exact bound applies."""
    bootstrap: BootstrapInterval | None
    value_range: tuple[float, float] | None
    """Least and largest value that a cell can take, where the exact bound was used."""

    @property
    def estimate(self) -> float:
        return self.analysis.estimate

    def p_value(self, null: float, side: Side) -> float | None:
        """One-sided p-value; None where no interval exists."""
        if not self.analysis.degenerate:
            return self.analysis.p_value(null, side)
        if self.interval is None or self.value_range is None:
            return None
        least, largest = self.value_range
        if side == "less":
            estimate, null, least = -self.estimate, -null, -largest
        else:
            estimate = self.estimate
        if null >= estimate:
            return 1.0
        # A share b of deviating units moves the mean by at most b (estimate - least).
        share = min((estimate - null) / (estimate - least), 1.0)
        return float((1.0 - share) ** self.analysis.num_units)

    def mde(self, alpha: float, power: float) -> float | None:
        """Smallest distance from a margin found with this power; None where nothing varied."""
        if self.analysis.degenerate:
            return None
        return detectable(self.analysis.standard_error, self.analysis.df, alpha=alpha, power=power)

    def would_decide(self, assumed: float, margin: float, power: float) -> WouldDecide | None:
        """Sizes at which `margin` would be cleared with this power if `assumed` were true."""
        distance = abs(assumed - margin)
        if self.analysis.degenerate or distance == 0.0:
            return None
        parts = self.analysis.components
        seeds = fewest_seeds(parts, self.analysis.num_units, distance, power=power)
        units = fewest_units(parts, self.analysis.num_seeds, distance, power=power)
        best = cheapest(parts, distance, power=power)
        return WouldDecide(
            assumed=assumed,
            seeds_at_these_examples=seeds,
            examples_at_these_seeds=units,
            cheapest_seeds=best.seeds if best else None,
            cheapest_examples=best.units if best else None,
            text=_describe(
                seeds, units, (best.seeds, best.units) if best is not None else None, self.analysis
            ),
        )


def infer_mean(
    values_SN: FloatArray,
    resampler: CrossedResamples,
    *,
    level: float = 0.95,
    value_range: tuple[float, float] | None = None,
) -> MeanInference:
    """Analyses one grid.

    Args:
        value_range: least and largest value of a cell, where scores are binary. If all cells
            are equal the interval is then the exact bound: at most a share b = 1 -
            (alpha/2)^(1/N) of units can differ from what all of them showed, each by no more
            than the range allows. It speaks of new examples, not of new seeds.

    Raises:
        DegenerateDataError: fewer than 2 seeds or 2 units.
    """
    analysis = two_way(values_SN)
    if not analysis.degenerate:
        low, high = analysis.interval(level)
        return MeanInference(
            analysis=analysis,
            interval=Interval(low=low, high=high, level=level, method=TWO_WAY),
            bootstrap=_bootstrap(values_SN, resampler, level, analysis),
            value_range=None,
        )
    exact: Interval | None = None
    if value_range is not None and bool((values_SN == values_SN[0, 0]).all()):
        share = exact_bound(analysis.num_units, level)
        least, largest = value_range
        exact = Interval(
            low=analysis.estimate - share * (analysis.estimate - least),
            high=analysis.estimate + share * (largest - analysis.estimate),
            level=level,
            method=EXACT,
        )
    return MeanInference(
        analysis=analysis,
        interval=exact,
        bootstrap=None,
        value_range=value_range if exact is not None else None,
    )


def log_ratio(
    top_SN: FloatArray, bottom_SN: FloatArray, level: float = 0.95
) -> tuple[float, Interval | None] | None:
    """log(mean(top) / mean(bottom)) with a two-way interval by linearisation.

    Returns:
        None where either mean is not positive: the ratio is not estimable then, and is never
        reported as a reduction of 100 %. The interval is None where nothing varies.
    """
    top, bottom = float(top_SN.mean()), float(bottom_SN.mean())
    if top <= 0.0 or bottom <= 0.0:
        return None
    centre = math.log(top / bottom)
    analysis = two_way(top_SN / top - bottom_SN / bottom)
    if analysis.degenerate:
        return centre, None
    low, high = analysis.interval(level)
    shift = centre - analysis.estimate
    return centre, Interval(
        low=low + shift, high=high + shift, level=level, method=f"{TWO_WAY}, linearised log ratio"
    )


def _bootstrap(
    values_SN: FloatArray, resampler: CrossedResamples, level: float, analysis: TwoWay
) -> BootstrapInterval | None:
    try:
        return crossed_bca(values_SN, resampler, level=level, analysis=analysis)
    except DegenerateDataError:
        # Few seeds and almost constant scores: all replicates on one side. The t interval, which
        # decides, exists; the report shows that the bootstrap one does not.
        return None


def _describe(
    seeds: int | None, units: int | None, best: tuple[int, int] | None, now: TwoWay
) -> str:
    parts = [
        f"{seeds} seeds x {now.num_units:,}"
        if seeds is not None
        else f"no number of seeds at {now.num_units:,} examples",
        f"{now.num_seeds} seeds x {units:,}"
        if units is not None
        else f"no number of examples at {now.num_seeds} seeds",
    ]
    if best is not None:
        parts.append(f"cheapest {best[0]} x {best[1]:,}")
    return "; ".join(parts)
