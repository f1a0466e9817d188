"""Bound: a figure of one arm lies under or over a limit, with its interval.

`decide_on: point` is for figures that are exact by construction (a plan length, a count of
rollbacks in a deterministic run): it is shown as descriptive and carries no p-value.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stats.gates.base import GateBase, GateContext, is_binary, is_fraction
from stats.gates.measured import ZERO_VARIATION, measured
from stats.gates.wording import Scale, population, show, show_interval
from stats.inference import MeanInference, infer_mean
from stats.result import Decision, GateResult


class Bound(GateBase):
    """Passes when the interval of the arm's mean lies beyond the limit."""

    kind: Literal["bound"]
    upper: float | None = Field(default=None, allow_inf_nan=False)
    """The mean must lie below this."""
    lower: float | None = Field(default=None, allow_inf_nan=False)
    """The mean must lie above this."""
    decide_on: Literal["interval", "point"] = "interval"
    """point: compare the mean alone (descriptive, no test)."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> Bound:
        if self.upper is None and self.lower is None:
            raise ValueError("a bound gate needs `upper`, `lower` or both")
        if self.upper is not None and self.lower is not None and self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower}) must lie below upper ({self.upper})")
        return self


CONFIG = Bound


def evaluate(config: Bound, context: GateContext) -> GateResult:
    """Two-way t of the mean against the limits."""
    grid = context.arm(config.metric, config.treatment)
    scale: Scale = "fraction" if is_fraction(grid.values_SN) else "raw"
    inference = infer_mean(
        grid.values_SN,
        context.resampler,
        level=context.level,
        value_range=(0.0, 1.0) if is_binary(grid.values_SN) else None,
    )
    decision, reason = _decide(config, inference)
    limits = tuple(limit for limit in (config.lower, config.upper) if limit is not None)
    wanted = [f"> {show(config.lower, scale, unit='%')}"] if config.lower is not None else []
    if config.upper is not None:
        wanted.append(f"< {show(config.upper, scale, unit='%')}")
    nearest = min(limits, key=lambda limit: abs(limit - inference.estimate))
    side = "within" if len(limits) == 2 else "below" if config.lower is None else "above"
    basis = "interval" if config.decide_on == "interval" else "point (descriptive)"
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"{show_interval(inference, scale, unit='%')}: {reason}",
        estimand=(
            f"mean {config.metric} of {config.treatment}, "
            f"{population(grid.values_SN.shape, grid.clustered)}"
        ),
        criterion=f"{basis} {' and '.join(wanted)}",
        scale=scale,
        passing_side=side,
        margins=limits,
        p_value=_p_value(config, inference) if config.decide_on == "interval" else None,
        assumed=(inference.estimate, nearest) if config.decide_on == "interval" else None,
        details={"decide_on": config.decide_on},
    )


def _decide(config: Bound, inference: MeanInference) -> tuple[Decision, str]:
    if config.decide_on == "point":
        value = inference.estimate
        inside = (config.upper is None or value <= config.upper) and (
            config.lower is None or value >= config.lower
        )
        return ("PASS", "within the limit") if inside else ("FAIL", "beyond the limit")
    interval = inference.interval
    if interval is None:
        return "INVALID", ZERO_VARIATION.format(what="the score is the same everywhere")
    under = config.upper is None or interval.high < config.upper
    over = config.lower is None or interval.low > config.lower
    if under and over:
        return "PASS", "the whole interval lies within the limit"
    if (config.upper is not None and interval.low >= config.upper) or (
        config.lower is not None and interval.high <= config.lower
    ):
        return "FAIL", "the whole interval lies beyond the limit"
    return "INCONCLUSIVE", "the interval holds the limit"


def _p_value(config: Bound, inference: MeanInference) -> float | None:
    sides: list[float | None] = []
    if config.upper is not None:
        sides.append(inference.p_value(config.upper, "less"))
    if config.lower is not None:
        sides.append(inference.p_value(config.lower, "greater"))
    known = [p for p in sides if p is not None]
    return max(known) if len(known) == len(sides) else None
