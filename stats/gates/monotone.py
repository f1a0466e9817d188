"""Monotone: a score falls (or rises) over ordered levels, such as corruption or knob settings.

Two tests, and both must pass. The slope of the scores on the level number, per seed and example,
goes through the two-way t: it covers new seeds and new examples and gives the interval. Page's L
(Page 1963) over the seeds' level means asks for the order itself: the levels' ranks must rise
within the seeds, whatever the shape of the trend. The p-value is the larger of the two.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from stats.errors import MissingCellsError
from stats.gates.base import GateBase, GateContext, is_fraction
from stats.gates.measured import ZERO_VARIATION, measured
from stats.gates.wording import Scale, population, show_interval
from stats.inference import infer_mean
from stats.result import Decision, GateResult, Interval
from stats.scores import ArmGrid, FloatArray


class Monotone(GateBase):
    """Passes when the slope's interval and Page's test both show the trend."""

    kind: Literal["monotone"]
    metric: str = "trend"
    """Name of the trend, for the report."""
    metrics: tuple[str, ...] = Field(min_length=3)
    """One metric a level, in the order of the levels."""
    direction: Literal["increasing", "decreasing"]
    """Which way the score must go."""


CONFIG = Monotone


def evaluate(config: Monotone, context: GateContext) -> GateResult:
    """Two-way t of the slope and Page's test over seeds."""
    grids = [context.arm(metric, config.treatment) for metric in config.metrics]
    _same_cells(config, grids)
    levels_SNK = np.stack([grid.values_SN for grid in grids], axis=-1)
    scale: Scale = "fraction" if is_fraction(levels_SNK) else "raw"
    positions_K = np.arange(len(grids)) - (len(grids) - 1) / 2
    weights_K = positions_K / float(np.sum(positions_K**2))
    sign = 1.0 if config.direction == "increasing" else -1.0
    inference = infer_mean(levels_SNK @ weights_K, context.resampler, level=context.level)
    means_SK = levels_SNK.mean(axis=1)
    page_l, page_p = page_test(sign * means_SK)
    slope_p = inference.p_value(0.0, "greater" if sign > 0 else "less")
    decision, reason = _decide(inference.interval, sign, page_p, context.alpha)
    means_K = means_SK.mean(axis=0)
    steps = np.diff(means_K) * sign
    details: dict[str, Any] = {
        "level_means": dict(zip(config.metrics, means_K.tolist(), strict=True)),
        "steps_in_order": int((steps > 0).sum()),
        "steps": len(steps),
        "page_l": page_l,
        "page_p": page_p,
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
        estimand=(
            f"slope of {config.metric} per level over {', '.join(config.metrics)} for "
            f"{config.treatment}, {population(levels_SNK.shape[:2], grids[0].clustered)}"
        ),
        criterion=f"{config.direction}: slope's interval beyond 0 and Page's p < {context.alpha:g}",
        scale=scale,
        passing_side="above" if sign > 0 else "below",
        margins=(0.0,),
        p_value=None if slope_p is None else max(slope_p, page_p),
        assumed=(inference.estimate, 0.0),
        details=details,
    )


def page_test(levels_BK: FloatArray) -> tuple[float, float]:
    """Page's L and its one-sided p-value for levels that increase, blocks in rows."""
    # scipy.stats takes 0.5 s to import; only this gate needs it.
    from scipy.stats import page_trend_test

    result = page_trend_test(levels_BK)
    return float(result.statistic), float(result.pvalue)


def _decide(
    interval: Interval | None, sign: float, page_p: float, alpha: float
) -> tuple[Decision, str]:
    if interval is None:
        return "INVALID", ZERO_VARIATION.format(what="the slope is the same everywhere")
    low, high = sorted((sign * interval.low, sign * interval.high))
    if low > 0 and page_p < alpha:
        return "PASS", "the trend is shown"
    if high <= 0:
        return "FAIL", "the trend goes the other way or is flat"
    if low > 0:
        return "INCONCLUSIVE", "the slope is shown, the order of the levels within seeds is not"
    return "INCONCLUSIVE", "the interval of the slope holds 0"


def _same_cells(config: Monotone, grids: list[ArmGrid]) -> None:
    for metric, grid in zip(config.metrics, grids, strict=True):
        if (grid.seeds, grid.unit_ids) != (grids[0].seeds, grids[0].unit_ids):
            raise MissingCellsError(
                f"Gate {config.id!r}: level {metric!r} has other seeds or examples than level "
                f"{config.metrics[0]!r}; a trend needs the same cells at every level."
            )
