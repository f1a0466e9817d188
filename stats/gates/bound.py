"""Bound: a figure of one arm lies under or over a limit, with its interval.

`decide_on: point` is for figures that are exact by construction (a plan length, a count of
rollbacks in a deterministic run): it is shown as descriptive and carries no p-value.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stats.gates.base import GateBase, GateContext, identity, is_binary, is_fraction
from stats.gates.measured import ZERO_VARIATION, measured
from stats.gates.wording import Scale, population, show, show_interval
from stats.inference import MeanInference, infer_mean
from stats.result import Decision, GateResult, Interval, PassingSide


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
    """Two-way t of the mean against the limits, or the mean alone."""
    grid = context.arm(config.metric, config.treatment)
    values_SN = grid.values_SN
    scale: Scale = "fraction" if is_fraction(values_SN) else "raw"
    limits = tuple(limit for limit in (config.lower, config.upper) if limit is not None)
    side: PassingSide = (
        "within" if len(limits) == 2 else "below" if config.lower is None else "above"
    )
    estimand = (
        f"mean {config.metric} of {config.treatment}, {population(values_SN.shape, grid.clustered)}"
    )
    on_point = config.decide_on == "point"
    if on_point and min(values_SN.shape) < 2:
        # A figure of one seed, or one figure a run: nothing but the mean can be given.
        estimate = float(values_SN.mean())
        decision, reason = _decide_point(config, estimate)
        return GateResult(
            **identity(config),
            decision=decision,
            reason=f"{show(estimate, scale, unit='%')}: {reason}",
            estimand=estimand,
            criterion=_criterion(config, scale),
            scale=scale,
            passing_side=side,
            margins=limits,
            estimate=estimate,
            treatment_mean=estimate,
            seeds=grid.seeds,
            seed_estimates=tuple(values_SN.mean(axis=1).tolist()),
            num_examples=len(grid.example_ids),
            num_units=values_SN.shape[1],
            details={"decide_on": config.decide_on},
        )
    inference = infer_mean(
        values_SN,
        context.resampler,
        level=context.level,
        value_range=(0.0, 1.0) if is_binary(values_SN) else None,
    )
    if on_point:
        decision, reason = _decide_point(config, inference.estimate)
    else:
        decision, reason = _decide(config, inference.interval)
    nearest = min(limits, key=lambda limit: abs(limit - inference.estimate))
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"{show_interval(inference, scale, unit='%')}: {reason}",
        estimand=estimand,
        criterion=_criterion(config, scale),
        scale=scale,
        passing_side=side,
        margins=limits,
        p_value=None if on_point else _p_value(config, inference),
        assumed=None if on_point else (inference.estimate, nearest),
        details={"decide_on": config.decide_on},
    )


def _criterion(config: Bound, scale: Scale) -> str:
    on_point = config.decide_on == "point"
    equal = "=" if on_point else ""
    wanted: list[str] = []
    if config.lower is not None:
        wanted.append(f">{equal} {show(config.lower, scale, unit='%')}")
    if config.upper is not None:
        wanted.append(f"<{equal} {show(config.upper, scale, unit='%')}")
    return f"{'point (descriptive)' if on_point else 'interval'} {' and '.join(wanted)}"


def _decide_point(config: Bound, estimate: float) -> tuple[Decision, str]:
    inside = (config.upper is None or estimate <= config.upper) and (
        config.lower is None or estimate >= config.lower
    )
    return ("PASS", "within the limit") if inside else ("FAIL", "beyond the limit")


def _decide(config: Bound, interval: Interval | None) -> tuple[Decision, str]:
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
