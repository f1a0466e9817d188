"""Superiority: the treatment is better than the control by a stated amount.

`min_point` and `min_lower` are two settings on purpose. "Point >= +1.5 pp and lower > 0" claims
an effect above 0, not above 1.5 pp; to claim 1.5 pp, set `min_lower: 0.015`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stats.gates.base import GateContext, TwoArmGate, is_binary, is_fraction
from stats.gates.measured import ZERO_VARIATION, measured
from stats.gates.wording import Scale, population, show, show_interval
from stats.inference import infer_mean
from stats.result import Decision, GateResult, Interval


class Superiority(TwoArmGate):
    """Passes when the improvement's point reaches `min_point` and its lower bound `min_lower`."""

    kind: Literal["superiority"]
    min_point: float = Field(default=0.0, allow_inf_nan=False)
    """Least improvement of the point estimate (0.015 is 1.5 pp for scores in [0, 1])."""
    min_lower: float = Field(default=0.0, allow_inf_nan=False)
    """The lower confidence bound must lie above this; it is what the gate claims."""
    higher_is_better: bool = True
    """False: the improvement is control minus treatment."""


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
    )
    decision, reason = _decide(config, inference.estimate, inference.interval, scale)
    reason = f"{show_interval(inference, scale)}: {reason}"
    target = max(config.min_point, config.min_lower)
    assumed = target if target > config.min_lower else inference.estimate
    order = "treatment minus control" if config.higher_is_better else "control minus treatment"
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=reason,
        estimand=(
            f"mean paired difference ({order}) of {config.metric}, {config.treatment} against "
            f"{config.versus}, {population(values_SN.shape, grid.clustered)}"
        ),
        criterion=_criterion(config, scale),
        scale=scale,
        passing_side="above",
        margins=tuple(sorted({config.min_lower, max(config.min_lower, config.min_point)})),
        p_value=inference.p_value(config.min_lower, "greater"),
        assumed=(assumed, config.min_lower),
    )


def _criterion(config: Superiority, scale: Scale) -> str:
    lower = f"lower > {show(config.min_lower, scale)}"
    if config.min_point <= config.min_lower:
        return lower
    return f"point >= {show(config.min_point, scale)} and {lower}"


def _decide(
    config: Superiority, estimate: float, interval: Interval | None, scale: Scale
) -> tuple[Decision, str]:
    if interval is None:
        return "INVALID", ZERO_VARIATION.format(
            what="the two arms' difference is the same everywhere"
        )
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
