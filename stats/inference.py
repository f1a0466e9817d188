"""Mean of a grid with everything a result shows: two-way t, calibrated BCa, MDE, exact rules.

The rate of a binary metric in one arm has the score interval of `stats.proportion` instead.

Knows no gate: it is handed a grid of values whose mean is the quantity of interest (paired
differences, a linear contrast, one arm's scores) and gives the figures. Units of unequal size
carry weights; the mean is then over examples and not over clusters.

Shapes: S seeds, N units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stats.bootstrap import CrossedResamples, crossed_bca
from stats.deciding import deciding_sizes, no_size
from stats.errors import DegenerateDataError
from stats.power import detectable
from stats.proportion import planning_factor, score_limits, score_p_value
from stats.ratios import weighted_mean_bca
from stats.result import BootstrapInterval, Interval, WouldDecide
from stats.scores import FloatArray
from stats.twoway import Side, TwoWay, exact_bound, two_way

TWO_WAY = "two-way Satterthwaite t"
EXACT = "exact bound, nothing varied"
SCORE = "score (modified Wilson), two-way variance"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanInference:
    """What is known about the mean of one grid."""

    analysis: TwoWay
    interval: Interval | None
    """None where nothing varied and no exact bound applies."""
    bootstrap: BootstrapInterval | None
    value_range: tuple[float, float] | None
    """Least and largest value that a cell can take, where the exact bound was used."""
    largest_share: float = 1.0
    """Size of the largest unit over the mean size: how much more than its number a unit weighs."""

    @property
    def estimate(self) -> float:
        return self.analysis.estimate

    @property
    def scored(self) -> bool:
        """Whether the score interval of a rate decides instead of the two-way t."""
        return self.interval is not None and self.interval.method == SCORE

    def p_value(self, null: float, side: Side) -> float | None:
        """One-sided p-value; None where no interval exists."""
        if self.scored:
            analysis = self.analysis
            return score_p_value(
                analysis.estimate, analysis.standard_error, analysis.df, null, side
            )
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
        if null < least:
            return 0.0
        # A share b of deviating units moves the mean by at most b (estimate - least), and by
        # more where those that deviate are the largest.
        share = min((estimate - null) / ((estimate - least) * self.largest_share), 1.0)
        return float((1.0 - share) ** self.analysis.num_units)

    def mde(self, alpha: float, power: float, margin: float | None = None) -> float | None:
        """Smallest distance from a margin found with this power; None where no interval exists.

        Where nothing varied, the distance that the exact bound covers: it is found for certain
        as long as nothing varies.

        Args:
            margin: a rate's error depends on it; None takes the error at the estimate.
        """
        if not self.analysis.degenerate:
            error = self.analysis.standard_error
            if self.scored and margin is not None:
                error *= math.sqrt(planning_factor(self.estimate, margin, alpha=alpha, power=power))
            return detectable(error, self.analysis.df, alpha=alpha, power=power)
        if self.interval is None:
            return None
        return max(self.interval.high - self.estimate, self.estimate - self.interval.low)

    def would_decide(
        self, assumed: float, margin: float, alpha: float, power: float
    ) -> WouldDecide | None:
        """Sizes at which `margin` would be cleared at `alpha` if `assumed` were true.

        None where no interval exists, so that nothing is known of the variance.
        """
        if self.analysis.degenerate:
            return self._would_decide_exactly(margin)
        components = self.analysis.components
        if self.scored:
            factor = planning_factor(self.estimate, margin, alpha=alpha, power=power)
            components = components.times(factor)
        return deciding_sizes(
            components,
            self.analysis.num_seeds,
            self.analysis.num_units,
            assumed=assumed,
            margin=margin,
            alpha=alpha,
            power=power,
        )

    def _would_decide_exactly(self, margin: float) -> WouldDecide | None:
        """Units at which the exact bound clears the margin, if still nothing varies."""
        if self.interval is None or self.value_range is None:
            return None
        end = self.value_range[0] if margin < self.estimate else self.value_range[1]
        room = abs(end - self.estimate)
        share = abs(margin - self.estimate) / (room * self.largest_share) if room else 0.0
        if share == 0.0:
            return no_size(self.estimate, "no size decides: the estimate is the margin itself")
        alpha = (1.0 - self.interval.level) / 2.0
        units = 1 if share >= 1.0 else math.ceil(math.log(alpha) / math.log1p(-share))
        # The bound must lie beyond the margin, not on it.
        units += exact_bound(units, self.interval.level) >= share
        return WouldDecide(
            assumed=self.estimate,
            seeds_at_these_examples=None,
            examples_at_these_seeds=units,
            cheapest_seeds=None,
            cheapest_examples=None,
            text=(
                f"{self.analysis.num_seeds} seeds x {units:,}, if still nothing varies; more seeds "
                "alone do not move this bound"
            ),
        )


def infer_mean(
    values_SN: FloatArray,
    resampler: CrossedResamples,
    *,
    level: float = 0.95,
    value_range: tuple[float, float] | None = None,
    weights_N: FloatArray | None = None,
    magnitude: float = 0.0,
    rate: bool = False,
) -> MeanInference:
    """Analyses one grid.

    Args:
        value_range: least and largest value of a cell, where scores are binary. If all cells
            are equal the interval is then the exact bound: at most a share b = 1 -
            (alpha/2)^(1/N) of units can differ from what all of them showed, each by no more
            than the range allows. It speaks of new examples, not of new seeds. Where units
            differ in size, the deviating ones are taken to be as large as the largest seen.
        weights_N: sizes of the units where they differ; the mean is then over examples.
        magnitude: size of the numbers whose differences the values are (`size_of`).
        rate: the values are one arm's 0 and 1, or shares of them within clusters: the score
            interval of a rate takes the place of the two-way t.

    Raises:
        DegenerateDataError: fewer than 2 seeds or 2 units.
    """
    analysis = two_way(values_SN, weights_N, magnitude=magnitude)
    if not analysis.degenerate:
        if rate:
            low, high = score_limits(analysis.estimate, analysis.standard_error, analysis.df, level)
        else:
            low, high = analysis.interval(level)
        method = SCORE if rate else TWO_WAY
        return MeanInference(
            analysis=analysis,
            interval=Interval(low=low, high=high, level=level, method=method),
            bootstrap=_bootstrap(values_SN, resampler, level, analysis, weights_N),
            value_range=None,
        )
    exact: Interval | None = None
    heaviest = 1.0 if weights_N is None else float(weights_N.max() / weights_N.mean())
    if value_range is not None and bool((values_SN == values_SN[0, 0]).all()):
        share = min(exact_bound(analysis.num_units, level) * heaviest, 1.0)
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
        largest_share=heaviest,
    )


def size_of(*grids: FloatArray) -> float:
    """Largest absolute value."""
    return max(float(np.abs(grid).max()) for grid in grids)


def _bootstrap(
    values_SN: FloatArray,
    resampler: CrossedResamples,
    level: float,
    analysis: TwoWay,
    weights_N: FloatArray | None,
) -> BootstrapInterval | None:
    try:
        if weights_N is not None:
            return weighted_mean_bca(
                values_SN, weights_N, resampler, level=level, analysis=analysis
            )
        return crossed_bca(values_SN, resampler, level=level, analysis=analysis)
    except DegenerateDataError:
        # Few seeds and almost constant scores: all replicates on one side. The t interval, which
        # decides, exists; the report shows that the bootstrap one does not.
        return None
