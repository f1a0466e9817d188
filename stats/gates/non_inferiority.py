"""Non-inferiority: the treatment is not worse than the control by more than a margin.

The margin is absolute (0.01 is 1 pp) or relative to the control's mean. A relative margin is
tested as the linear contrast mean(Y_t - (1 - margin) Y_c) > 0: the same claim as a ratio, without
a ratio's pole; the log-ratio interval stands beside it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from stats.errors import GateError
from stats.gates.base import GateContext, TwoArmGate, is_binary, is_fraction
from stats.gates.measured import ZERO_VARIATION, measured
from stats.gates.wording import Scale, population, show, show_interval
from stats.inference import infer_mean, log_ratio
from stats.result import Decision, GateResult, Interval


class NonInferiority(TwoArmGate):
    """Passes when the lower bound of the improvement lies above minus the margin."""

    kind: Literal["non_inferiority"]
    margin: float = Field(gt=0, allow_inf_nan=False)
    """Largest loss that does not matter: absolute, or a share of the control's mean."""
    scale: Literal["absolute", "relative"] = "absolute"
    """What `margin` counts in."""
    higher_is_better: bool = True
    """False: the loss is treatment minus control."""


CONFIG = NonInferiority


def evaluate(config: NonInferiority, context: GateContext) -> GateResult:
    """Two-way t against the margin."""
    grid = context.paired(config.metric, config.treatment, config.versus)
    arms = (grid.treatment_SN, grid.control_SN)
    scale: Scale = "fraction" if is_fraction(*arms) else "raw"
    sign = 1.0 if config.higher_is_better else -1.0
    details: dict[str, Any] = {"margin": config.margin, "margin_scale": config.scale}
    if config.scale == "absolute":
        weight, null, assumed = 1.0, -config.margin, 0.0
        what = f"mean paired {'difference' if sign > 0 else 'reduction'} of {config.metric}"
        criterion = f"lower > {show(null, scale)} (absolute margin)"
    else:
        if min(float(arm.min()) for arm in arms) < 0:
            raise GateError(
                f"Gate {config.id!r}: a relative margin needs scores >= 0, but "
                f"{config.metric!r} has negative ones; use scale: absolute."
            )
        weight, null = 1.0 - sign * config.margin, 0.0
        assumed = config.margin * float(grid.control_SN.mean())
        what = f"mean of {config.metric}({config.treatment}) - {weight:g} x control"
        criterion = f"lower of that contrast > 0 (loss below {config.margin:.1%} of the control)"
        details |= _relative(grid.treatment_SN, grid.control_SN, context.level)
    values_SN = sign * (grid.treatment_SN - weight * grid.control_SN)
    ends = sorted((sign, -sign * weight, 0.0))
    inference = infer_mean(
        values_SN,
        context.resampler,
        level=context.level,
        value_range=(ends[0], ends[-1]) if is_binary(*arms) else None,
    )
    decision, reason = _decide(inference.interval, null, scale)
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"{show_interval(inference, scale)}: {reason}",
        estimand=(
            f"{what}, {config.treatment} against {config.versus}, "
            f"{population(values_SN.shape, grid.clustered)}"
        ),
        criterion=criterion,
        scale=scale,
        passing_side="above",
        margins=(null,),
        p_value=inference.p_value(null, "greater"),
        assumed=(assumed, null),
        details=details,
    )


def _decide(interval: Interval | None, null: float, scale: Scale) -> tuple[Decision, str]:
    if interval is None:
        return "INVALID", ZERO_VARIATION.format(
            what="the two arms' difference is the same everywhere"
        )
    if interval.low > null:
        return "PASS", f"the lower bound lies above {show(null, scale)}"
    if interval.high < null:
        return "FAIL", f"the upper bound lies below {show(null, scale)}: worse by more than that"
    return "INCONCLUSIVE", f"the interval holds {show(null, scale)}"


def _relative(treatment_SN: Any, control_SN: Any, level: float) -> dict[str, Any]:
    found = log_ratio(treatment_SN, control_SN, level)
    if found is None:
        return {"relative_change": None, "relative_change_interval": None}
    centre, interval = found
    limits = [math.expm1(interval.low), math.expm1(interval.high)] if interval else None
    return {"relative_change": math.expm1(centre), "relative_change_interval": limits}
