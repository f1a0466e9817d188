"""Bound: a figure of one arm lies under or over a limit, with its interval.

The two-way t decides, and for a binary metric the score interval of a rate (`stats.proportion`).
`decide_on: point` is for figures that are exact by construction or belong to a run and not to
test items (a plan length, whether a burst was rolled back): it describes the runs that were made,
so it carries no interval and no p-value, only the mean and the range over the seeds.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stats.gates.base import GateContext, MeanGate, identity, is_binary, is_fraction
from stats.gates.measured import mean, measured
from stats.gates.wording import Scale, no_interval, show, show_interval
from stats.inference import MeanInference, infer_mean
from stats.result import Decision, GateResult, PassingSide
from stats.scores import ArmGrid


class Bound(MeanGate):
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

    def quantity(self) -> str:
        what = f"mean {self.metric} of {self.treatment}"
        if self.decide_on == "point":
            return f"{what} over the runs that were made (descriptive: no claim on new ones)"
        return what

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        on_point = self.decide_on == "point"
        equal = "=" if on_point else ""
        wanted: list[str] = []
        if self.lower is not None:
            wanted.append(f">{equal} {show(self.lower, scale, unit='%')}")
        if self.upper is not None:
            wanted.append(f"<{equal} {show(self.upper, scale, unit='%')}")
        return f"{'point (descriptive)' if on_point else 'interval'} {' and '.join(wanted)}"

    def side(self) -> PassingSide:
        if self.lower is not None and self.upper is not None:
            return "within"
        return "below" if self.lower is None else "above"

    def limits(self) -> tuple[float, ...]:
        return tuple(limit for limit in (self.lower, self.upper) if limit is not None)


CONFIG = Bound


def evaluate(config: Bound, context: GateContext) -> GateResult:
    """The interval of the mean against the limits, or the mean alone."""
    grid = context.arm(config.metric, config.treatment)
    values_SN = grid.values_SN
    scale: Scale = "fraction" if is_fraction(values_SN) else "raw"
    if config.decide_on == "point":
        return _describe(config, grid, scale)
    inference = infer_mean(
        values_SN,
        context.resampler,
        level=context.level,
        value_range=(0.0, 1.0) if is_binary(values_SN) else None,
        weights_N=config.weights(grid),
        rate=is_binary(grid.cell_values_SE),
    )
    decision, reason = _decide(config, inference)
    nearest = min(config.limits(), key=lambda limit: abs(limit - inference.estimate))
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"{show_interval(inference, scale, unit='%')}: {reason}",
        scale=scale,
        passing_side=config.side(),
        margins=config.limits(),
        p_value=_p_value(config, inference),
        assumed=(inference.estimate, nearest),
        details={"decide_on": config.decide_on},
    )


def _describe(config: Bound, grid: ArmGrid, scale: Scale) -> GateResult:
    """The mean of the runs against the limits, with the seeds' range instead of an interval."""
    weights_N = config.weights(grid)
    estimate = mean(grid.values_SN, weights_N)
    seed_means = [mean(row_N[None, :], weights_N) for row_N in grid.values_SN]
    inside = (config.upper is None or estimate <= config.upper) and (
        config.lower is None or estimate >= config.lower
    )
    least, most = (show(limit(seed_means), scale, unit="%") for limit in (min, max))
    runs = f"{len(seed_means)} runs" if len(seed_means) != 1 else "1 run"
    spread = f"all {least}" if least == most else f"{least} to {most} by run"
    return GateResult(
        **identity(config),
        decision="PASS" if inside else "FAIL",
        reason=(
            f"{show(estimate, scale, unit='%')} over {runs} ({spread}): "
            f"{'within' if inside else 'beyond'} the limit"
        ),
        estimand=f"{config.quantity()}; {len(seed_means)} seeds x {_values(grid)}",
        criterion=config.rule(scale),
        scale=scale,
        passing_side=config.side(),
        margins=config.limits(),
        estimate=estimate,
        treatment_mean=estimate,
        seeds=grid.seeds,
        seed_estimates=tuple(seed_means),
        num_examples=len(grid.example_ids),
        num_units=len(grid.unit_ids),
        details={"decide_on": config.decide_on, "seed_range": [min(seed_means), max(seed_means)]},
    )


def _values(grid: ArmGrid) -> str:
    """`2 values a run`."""
    num = len(grid.example_ids)
    return f"{num:,} value{'' if num == 1 else 's'} a run"


def _decide(config: Bound, inference: MeanInference) -> tuple[Decision, str]:
    interval = inference.interval
    if interval is None:
        return "INVALID", no_interval(inference, "the score")
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
