"""Contrast: the treatment's mean lies below `ratio` times the control's.

"At least 30 % fewer violations" is mean(Y_t) < 0.7 mean(Y_c), tested as the linear contrast
mean(Y_t - 0.7 Y_c) < 0 with the two-way t: the same claim as the ratio, without its pole. The
log-ratio interval and the BCa interval of the ratio stand beside it. A control without events
leaves nothing to reduce: "not estimable", never a reduction of 100 %.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stats.errors import GateError
from stats.gates.base import GateContext, PairedGate, is_binary, is_fraction
from stats.gates.measured import measured
from stats.gates.wording import Scale, no_interval, ratio_details, show_interval
from stats.inference import MeanInference, infer_mean, size_of
from stats.ratios import RatioInference, infer_ratio
from stats.result import Decision, GateResult


class Contrast(PairedGate):
    """Passes when the upper bound of mean(Y_t - ratio Y_c) lies below 0."""

    kind: Literal["contrast"]
    ratio: float = Field(gt=0, allow_inf_nan=False)
    """0.7 claims at least 30 % fewer."""

    def quantity(self) -> str:
        return (
            f"mean of {self.metric}({self.treatment}) - {self.ratio:g} x "
            f"{self.metric}({self.versus})"
        )

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        if self.ratio >= 1.0:
            return f"upper < 0, that is, below {self.ratio:g} x the control"
        return f"upper < 0, that is, at least {100 - 100 * self.ratio:.4g}% lower than the control"


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
        weights_N=config.weights(grid),
        magnitude=size_of(*arms),
    )
    decision, reason = _decide(inference, no_events)
    ratio = infer_ratio(
        *arms, context.resampler, level=context.level, weights_N=config.weights(grid)
    )
    shown = _shown(ratio, no_events)
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"contrast {show_interval(inference, scale)}, {shown}: {reason}",
        scale=scale,
        passing_side="below",
        margins=(0.0,),
        p_value=inference.p_value(0.0, "less"),
        assumed=(inference.estimate, 0.0),
        details={**ratio_details(ratio, "reduction"), "text": shown},
    )


def _decide(inference: MeanInference, no_events: bool) -> tuple[Decision, str]:
    interval = inference.interval
    if interval is None:
        events = "the control has no events, and " if no_events else ""
        return "INVALID", events + no_interval(inference, "the contrast")
    if interval.high < 0:
        return "PASS", "the upper bound lies below 0"
    if interval.low >= 0:
        return "FAIL", "the lower bound lies above 0; the reduction is not reached"
    if no_events:
        return "INCONCLUSIVE", "the control has no events, so there is nothing to reduce"
    return "INCONCLUSIVE", "the interval holds 0"


def _shown(found: RatioInference, no_events: bool) -> str:
    if found.ratio is None:
        arm = "control" if no_events else "treatment"
        return f"reduction not estimable ({arm} has no events)"
    reduction = 1.0 - found.ratio
    if found.interval is None:
        return f"{reduction:.1%} lower"
    low, high = 1.0 - found.interval.high, 1.0 - found.interval.low
    return f"reduction {reduction:.1%} [{low:.1%}, {high:.1%}]"
