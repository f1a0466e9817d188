"""Non-inferiority: the treatment is not worse than the control by more than a margin.

The margin is absolute (0.01 is 1 pp) or relative to the control's mean. A relative margin is
tested as the linear contrast mean(Y_t - (1 - margin) Y_c) > 0: the same claim as a ratio, without
a ratio's pole; the log-ratio interval and the BCa interval of the ratio stand beside it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stats.errors import GateError
from stats.gates.base import GateContext, PairedGate, is_binary, is_fraction
from stats.gates.measured import mean, measured
from stats.gates.wording import Scale, no_interval, ratio_details, show, show_interval
from stats.inference import MeanInference, infer_mean, size_of
from stats.ratios import infer_ratio
from stats.result import Decision, GateResult


class NonInferiority(PairedGate):
    """Passes when the lower bound of the improvement lies above minus the margin."""

    kind: Literal["non_inferiority"]
    margin: float = Field(gt=0, allow_inf_nan=False)
    """Largest loss that does not matter: absolute, or a share of the control's mean."""
    scale: Literal["absolute", "relative"] = "absolute"
    """What `margin` counts in."""
    higher_is_better: bool = True
    """False: the loss is treatment minus control."""

    @property
    def control_weight(self) -> float:
        """Factor of the control in the contrast: 1 for an absolute margin."""
        if self.scale == "absolute":
            return 1.0
        return 1.0 - self.margin if self.higher_is_better else 1.0 + self.margin

    def quantity(self) -> str:
        if self.scale == "absolute":
            what = "difference" if self.higher_is_better else "reduction"
            text = f"mean paired {what} of {self.metric}"
        elif self.higher_is_better:
            text = f"mean of {self.metric}({self.treatment}) - {self.control_weight:g} x control"
        else:
            text = f"mean of {self.control_weight:g} x control - {self.metric}({self.treatment})"
        return f"{text}, {self.treatment} against {self.versus}"

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        if self.scale == "absolute":
            return f"lower > {show(-self.margin, scale)} (absolute margin)"
        return f"lower of that contrast > 0 (loss below {100 * self.margin:.4g}% of the control)"


CONFIG = NonInferiority


def evaluate(config: NonInferiority, context: GateContext) -> GateResult:
    """Two-way t against the margin."""
    grid = context.paired(config.metric, config.treatment, config.versus)
    arms = (grid.treatment_SN, grid.control_SN)
    scale: Scale = "fraction" if is_fraction(*arms) else "raw"
    sign = 1.0 if config.higher_is_better else -1.0
    details: dict[str, Any] = {"margin": config.margin, "margin_scale": config.scale}
    weight, weights_N = config.control_weight, config.weights(grid)
    if config.scale == "absolute":
        null, assumed = -config.margin, 0.0
    else:
        if min(float(arm.min()) for arm in arms) < 0:
            raise GateError(
                f"Gate {config.id!r}: a relative margin needs scores >= 0, but "
                f"{config.metric!r} has negative ones; use scale: absolute."
            )
        null = 0.0
        assumed = config.margin * mean(grid.control_SN, weights_N)
        details |= ratio_details(
            infer_ratio(*arms, context.resampler, level=context.level, weights_N=weights_N),
            "relative_change",
        )
    values_SN = sign * (grid.treatment_SN - weight * grid.control_SN)
    ends = sorted((sign, -sign * weight, 0.0))
    inference = infer_mean(
        values_SN,
        context.resampler,
        level=context.level,
        value_range=(ends[0], ends[-1]) if is_binary(*arms) else None,
        weights_N=weights_N,
        magnitude=size_of(*arms),
    )
    decision, reason = _decide(inference, null, scale)
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"{show_interval(inference, scale)}: {reason}",
        scale=scale,
        passing_side="above",
        margins=(null,),
        p_value=inference.p_value(null, "greater"),
        assumed=(assumed, null),
        details=details,
        turned=not config.higher_is_better,
    )


def _decide(inference: MeanInference, null: float, scale: Scale) -> tuple[Decision, str]:
    interval = inference.interval
    if interval is None:
        return "INVALID", no_interval(inference, "the two arms' difference")
    if interval.low > null:
        return "PASS", f"the lower bound lies above {show(null, scale)}"
    if interval.high < null:
        return "FAIL", f"the upper bound lies below {show(null, scale)}: worse by more than that"
    return "INCONCLUSIVE", f"the interval holds {show(null, scale)}"
