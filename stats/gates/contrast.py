"""Contrast: the treatment's mean lies below `ratio` times the control's.

"At least 30 % fewer violations" is mean(Y_t) < 0.7 mean(Y_c), tested as the linear contrast
mean(Y_t - 0.7 Y_c) < 0 with the two-way t: the same claim as the ratio, without its pole. The
log-ratio interval stands beside it. A control without events leaves nothing to reduce: "not
estimable", never a reduction of 100 %.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from stats.errors import GateError
from stats.gates.base import GateContext, TwoArmGate, is_binary, is_fraction
from stats.gates.measured import ZERO_VARIATION, measured
from stats.gates.wording import Scale, population, show_interval
from stats.inference import infer_mean, log_ratio
from stats.result import Decision, GateResult, Interval
from stats.scores import PairedGrid


class Contrast(TwoArmGate):
    """Passes when the upper bound of mean(Y_t - ratio Y_c) lies below 0."""

    kind: Literal["contrast"]
    ratio: float = Field(gt=0, allow_inf_nan=False)
    """0.7 claims at least 30 % fewer."""


CONFIG = Contrast


def evaluate(config: Contrast, context: GateContext) -> GateResult:
    """Two-way t of the linear contrast, with the log ratio beside it."""
    grid = context.paired(config.metric, config.treatment, config.versus)
    arms = (grid.treatment_SN, grid.control_SN)
    if min(float(arm.min()) for arm in arms) < 0:
        raise GateError(
            f"Gate {config.id!r}: a contrast of rates needs scores >= 0, but "
            f"{config.metric!r} has negative ones."
        )
    scale: Scale = "fraction" if is_fraction(*arms) else "raw"
    values_SN = grid.treatment_SN - config.ratio * grid.control_SN
    no_events = not bool(grid.control_SN.any())
    binary = is_binary(*arms) and not no_events
    inference = infer_mean(
        values_SN,
        context.resampler,
        level=context.level,
        value_range=(-config.ratio, 1.0) if binary else None,
    )
    decision, reason = _decide(inference.interval, no_events)
    details = _reduction(grid, context.level)
    shown = details["text"]
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"contrast {show_interval(inference, scale)}, {shown}: {reason}",
        estimand=(
            f"mean of {config.metric}({config.treatment}) - {config.ratio:g} x "
            f"{config.metric}({config.versus}), {population(values_SN.shape, grid.clustered)}"
        ),
        criterion=f"upper < 0, that is, at least {1 - config.ratio:.0%} lower than the control",
        scale=scale,
        passing_side="below",
        margins=(0.0,),
        p_value=inference.p_value(0.0, "less"),
        assumed=(inference.estimate, 0.0),
        details=details,
    )


def _decide(interval: Interval | None, no_events: bool) -> tuple[Decision, str]:
    if interval is None:
        what = "the control has no events" if no_events else "the contrast is the same everywhere"
        return "INVALID", ZERO_VARIATION.format(what=what)
    if interval.high < 0:
        return "PASS", "the upper bound lies below 0"
    if interval.low >= 0:
        return "FAIL", "the lower bound lies above 0; the reduction is not reached"
    if no_events:
        return "INCONCLUSIVE", "the control has no events, so there is nothing to reduce"
    return "INCONCLUSIVE", "the interval holds 0"


def _reduction(grid: PairedGrid, level: float) -> dict[str, Any]:
    """1 - ratio of means with the interval from the log ratio, or why there is none."""
    found = log_ratio(grid.treatment_SN, grid.control_SN, level)
    if found is None:
        arm = "control" if not bool(grid.control_SN.any()) else "treatment"
        return {
            "reduction": None,
            "reduction_interval": None,
            "text": f"reduction not estimable ({arm} has no events)",
        }
    centre, interval = found
    reduction = -math.expm1(centre)
    if interval is None:
        return {
            "reduction": reduction,
            "reduction_interval": None,
            "text": f"{reduction:.1%} lower",
        }
    limits = [-math.expm1(interval.high), -math.expm1(interval.low)]
    return {
        "reduction": reduction,
        "reduction_interval": limits,
        "text": f"reduction {reduction:.1%} [{limits[0]:.1%}, {limits[1]:.1%}]",
    }
