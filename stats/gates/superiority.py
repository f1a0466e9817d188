"""Superiority: the treatment is better than the control by a stated amount.

`min_point` and `min_lower` are two settings on purpose. "Point >= +1.5 pp and lower > 0" claims
an effect above 0, not above 1.5 pp; to claim 1.5 pp, set `min_lower: 0.015`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stats.gates.base import GateContext, PairedGate, is_binary, is_fraction
from stats.gates.measured import measured
from stats.gates.wording import Scale, no_interval, show, show_interval
from stats.inference import MeanInference, infer_mean, size_of
from stats.result import Decision, GateResult


class Superiority(PairedGate):
    """Passes when the improvement's point reaches `min_point` and its lower bound `min_lower`."""

    kind: Literal["superiority"]
    min_point: float = Field(default=0.0, allow_inf_nan=False)
    """Least improvement of the point estimate (0.015 is 1.5 pp for scores in [0, 1])."""
    min_lower: float = Field(default=0.0, allow_inf_nan=False)
    """The lower confidence bound must lie above this; it is what the gate claims."""
    higher_is_better: bool = True
    """False: the improvement is control minus treatment."""

    def quantity(self) -> str:
        order = "treatment minus control" if self.higher_is_better else "control minus treatment"
        return (
            f"mean paired difference ({order}) of {self.metric}, {self.treatment} against "
            f"{self.versus}"
        )

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        lower = f"lower > {show(self.min_lower, scale)}"
        if self.min_point <= self.min_lower:
            return lower
        return f"point >= {show(self.min_point, scale)} and {lower}"


CONFIG = Superiority


def evaluate(config: Superiority, context: GateContext) -> GateResult:
    """Two-way t on the paired improvements."""
    grid = context.paired(config.metric, config.treatment, config.versus)
    sign = 1.0 if config.higher_is_better else -1.0
    values_SN = sign * grid.difference_SN
    arms = (grid.treatment_SN, grid.control_SN)
    scale: Scale = "fraction" if is_fraction(*arms) else "raw"
    binary = is_binary(*arms)
    inference = infer_mean(
        values_SN,
        context.resampler,
        level=context.level,
        # Identical arms show nothing at all: no exact bound makes that a result.
        value_range=(-1.0, 1.0) if binary and bool(values_SN.any()) else None,
        weights_N=config.weights(grid),
        magnitude=size_of(*arms),
    )
    decision, reason = _decide(config, inference, scale)
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"{show_interval(inference, scale)}: {reason}",
        scale=scale,
        passing_side="above",
        margins=tuple(sorted({config.min_lower, max(config.min_lower, config.min_point)})),
        p_value=inference.p_value(config.min_lower, "greater"),
        assumed=_assumed(config, inference),
        turned=not config.higher_is_better,
    )


def _assumed(config: Superiority, inference: MeanInference) -> tuple[float, float]:
    """The truth and the margin for which sizes are planned."""
    estimate, interval = inference.estimate, inference.interval
    if config.min_point <= config.min_lower:
        return estimate, config.min_lower
    if interval is not None and interval.low > config.min_lower:
        # Shown to be better, but not by `min_point`: more data show whether that is reached.
        return estimate, config.min_point
    return config.min_point, config.min_lower


def _decide(config: Superiority, inference: MeanInference, scale: Scale) -> tuple[Decision, str]:
    estimate, interval = inference.estimate, inference.interval
    if interval is None:
        return "INVALID", no_interval(inference, "the two arms' difference")
    needed = max(config.min_point, config.min_lower)
    if interval.high < config.min_point or interval.high <= config.min_lower:
        return "FAIL", f"the upper bound lies below {show(needed, scale)}; not reached"
    reached = "" if config.min_point <= config.min_lower else ", and the point reaches its margin"
    if interval.low > config.min_lower and estimate >= config.min_point:
        return "PASS", f"the lower bound lies above {show(config.min_lower, scale)}{reached}"
    if interval.low > config.min_lower:
        return "INCONCLUSIVE", (
            f"above {show(config.min_lower, scale)}, but the point does not reach "
            f"{show(config.min_point, scale)}, which lies inside the interval"
        )
    return "INCONCLUSIVE", f"the interval holds {show(config.min_lower, scale)}"
