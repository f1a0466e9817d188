"""Monotone: a score falls (or rises) over ordered levels, such as corruption or knob settings.

Two tests, and both must pass. The slope of the scores on the level number, per seed and example,
goes through the two-way t: it covers new seeds and new examples and gives the interval. Page's L
(Page 1963) over the seeds' level means asks for the order itself: the levels' ranks must rise
within the seeds, whatever the shape of the trend. It takes the test items as fixed, so it does
not decide alone. The p-value is the larger of the two.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtri

from stats.gates.base import GateContext, MeanGate, is_fraction
from stats.gates.levels import level_grids, slope_weights, stacked, weighted_level_means
from stats.gates.measured import measured
from stats.gates.wording import Scale, no_interval, show_interval
from stats.inference import MeanInference, infer_mean, size_of
from stats.power import MAX_SEEDS
from stats.result import Decision, GateResult, WouldDecide
from stats.scores import FloatArray

PAGE_ASSUMES = "seeds independent, test items fixed; does not decide alone"


class Monotone(MeanGate):
    """Passes when the slope's interval and Page's test both show the trend."""

    kind: Literal["monotone"]
    metric: str = "trend"
    """Name of the trend, for the report."""
    metrics: tuple[str, ...] = Field(min_length=3)
    """One metric a level, in the order of the levels."""
    direction: Literal["increasing", "decreasing"]
    """Which way the score must go."""

    def quantity(self) -> str:
        return (
            f"slope of {self.metric} per level over {', '.join(self.metrics)} for {self.treatment}"
        )

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        side = "above" if self.direction == "increasing" else "below"
        return f"{self.direction}: slope's interval {side} 0 and Page's p < {alpha:g}"


CONFIG = Monotone


def evaluate(config: Monotone, context: GateContext) -> GateResult:
    """Two-way t of the slope and Page's test over seeds."""
    grids = level_grids(config, context, config.metrics, config.treatment)
    weights_N = config.weights(grids[0])
    levels_SNK = stacked(grids)
    scale: Scale = "fraction" if is_fraction(levels_SNK) else "raw"
    weights_K = slope_weights(np.arange(len(grids), dtype=np.float64))
    sign = 1.0 if config.direction == "increasing" else -1.0
    inference = infer_mean(
        levels_SNK @ weights_K,
        context.resampler,
        level=context.level,
        weights_N=weights_N,
        magnitude=size_of(levels_SNK),
    )
    means_SK = weighted_level_means(levels_SNK, weights_N)
    page_l, page_p = page_test(sign * means_SK)
    slope_p = inference.p_value(0.0, "greater" if sign > 0 else "less")
    decision, reason = _decide(inference, sign, page_p, context.alpha)
    slope_shown = slope_p is not None and slope_p < context.alpha
    means_K = means_SK.mean(axis=0)
    steps = np.diff(means_K) * sign
    details: dict[str, Any] = {
        "level_means": dict(zip(config.metrics, means_K.tolist(), strict=True)),
        "steps_in_order": int((steps > 0).sum()),
        "steps": len(steps),
        "page_l": page_l,
        "page_p": page_p,
        "page_assumes": PAGE_ASSUMES,
        "slope_p": slope_p,
    }
    return measured(
        config,
        context,
        grids[0],
        inference,
        decision=decision,
        reason=(
            f"slope {show_interval(inference, scale)} per level, Page p = {page_p:.3g}: {reason}"
        ),
        scale=scale,
        passing_side="above" if sign > 0 else "below",
        margins=(0.0,),
        p_value=None if slope_p is None else max(slope_p, page_p),
        assumed=(inference.estimate, 0.0),
        details=details,
        plan=_seeds_for_page(page_p, inference, context) if slope_shown else None,
    )


def page_test(levels_BK: FloatArray) -> tuple[float, float]:
    """Page's L and its one-sided p-value for levels that increase, blocks in rows."""
    # scipy.stats takes 0.5 s to import; only this gate needs it.
    from scipy.stats import page_trend_test

    result = page_trend_test(levels_BK)
    return float(result.statistic), float(result.pvalue)


def _seeds_for_page(page_p: float, inference: MeanInference, context: GateContext) -> WouldDecide:
    """Seeds at which Page's test would show the order, if new seeds order alike.

    The standardised L grows with the square root of the number of blocks.
    """
    seeds: int | None = None
    z = -float(ndtri(page_p))
    if z > 0:
        needed = -float(ndtri(context.alpha)) + float(ndtri(context.power))
        seeds = math.ceil(inference.analysis.num_seeds * (needed / z) ** 2)
        seeds = seeds if seeds <= MAX_SEEDS else None
    units = inference.analysis.num_units
    found = "no number of seeds" if seeds is None else f"{seeds} seeds"
    return WouldDecide(
        assumed=inference.estimate,
        seeds_at_these_examples=seeds,
        examples_at_these_seeds=None,
        cheapest_seeds=seeds,
        cheapest_examples=None if seeds is None else units,
        text=f"{found} x {units:,} for Page's test, if new seeds order the levels alike",
    )


def _decide(
    inference: MeanInference, sign: float, page_p: float, alpha: float
) -> tuple[Decision, str]:
    interval = inference.interval
    if interval is None:
        return "INVALID", no_interval(inference, "the slope")
    low, high = sorted((sign * interval.low, sign * interval.high))
    if low > 0 and page_p < alpha:
        return "PASS", "the trend is shown"
    if high <= 0:
        return "FAIL", "the trend goes the other way or is flat"
    if low > 0:
        return "INCONCLUSIVE", "the slope is shown, the order of the levels within seeds is not"
    return "INCONCLUSIVE", "the interval of the slope holds 0"
