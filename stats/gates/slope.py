"""Slope: how a score changes with each doubling of a length, alone or against a control.

For every seed and unit (cluster) the scores at the lengths give a least-squares slope on
log2(length); the grid of slopes goes through the two-way t. So the slope's interval covers new
seeds and new test items, which a line through five means does not. With `versus` the quantity is
the paired difference of slopes: the treatment loses less with each doubling.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from stats.gates.base import GateContext, MeanGate, is_fraction
from stats.gates.levels import level_grids, slope_weights, stacked, weighted_level_means
from stats.gates.measured import measured
from stats.gates.wording import Scale, no_interval, show, show_interval
from stats.inference import MeanInference, infer_mean, size_of
from stats.result import Decision, GateResult
from stats.scores import ArmGrid, FloatArray

_UNITS = {"": 1, "k": 1024, "m": 1024**2}


class Slope(MeanGate):
    """Passes when the lower bound of the slope per doubling lies above `min_lower`."""

    kind: Literal["slope"]
    metric: str = "slope"
    """Name of the slope, for the report."""
    metrics: tuple[str, ...] = Field(min_length=3)
    """One metric a length."""
    lengths: tuple[float, ...] | None = None
    """Length of each metric; None reads them behind the @ of the metrics (512, 8k, 1M)."""
    versus: str = ""
    """Control arm whose slope is taken off; empty for the treatment's own slope."""
    min_lower: float = Field(default=0.0, allow_inf_nan=False)
    """The lower bound must lie above this, per doubling; below 0 it is a loss that is allowed."""
    higher_is_better: bool = True
    """False: the sign of the slope is turned, so that above is better all the same."""

    @model_validator(mode="after")
    def _lengths_rise(self) -> Slope:
        lengths = self.known_lengths()
        if len(lengths) != len(self.metrics):
            raise ValueError(f"{len(lengths)} lengths for {len(self.metrics)} metrics")
        if not all(math.isfinite(length) and length > 0 for length in lengths):
            raise ValueError(f"lengths must be finite and above 0, got {list(lengths)}")
        if len(set(lengths)) != len(lengths):
            raise ValueError(f"lengths must differ, got {list(lengths)}")
        return self

    def known_lengths(self) -> tuple[float, ...]:
        if self.lengths is not None:
            return self.lengths
        return tuple(length_of(metric) for metric in self.metrics)

    def quantity(self) -> str:
        what = f"slope of {self.metric} per doubling of the length over {', '.join(self.metrics)}"
        turned = "" if self.higher_is_better else ", sign turned"
        if self.versus:
            return f"difference of the {what}, {self.treatment} minus {self.versus}{turned}"
        return f"{what} for {self.treatment}{turned}"

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        return f"lower > {show(self.min_lower, scale)} per doubling"


CONFIG = Slope


def evaluate(config: Slope, context: GateContext) -> GateResult:
    """Two-way t of the grid of slopes."""
    grids = level_grids(config, context, config.metrics, config.treatment)
    weights_N = config.weights(grids[0])
    levels_SNK = stacked(grids)
    weights_K = slope_weights(np.log2(np.array(config.known_lengths())))
    shown_SNK = [levels_SNK]
    details: dict[str, Any] = {
        "lengths": list(config.known_lengths()),
        **_arm_details("", levels_SNK, config, weights_N, weights_K),
    }
    values_SN = levels_SNK @ weights_K
    if config.versus:
        control_SNK = stacked(_controls(config, context, grids[0]))
        values_SN = values_SN - control_SNK @ weights_K
        shown_SNK.append(control_SNK)
        details |= _arm_details("control_", control_SNK, config, weights_N, weights_K)
    scale: Scale = "fraction" if is_fraction(*shown_SNK) else "raw"
    sign = 1.0 if config.higher_is_better else -1.0
    inference = infer_mean(
        sign * values_SN,
        context.resampler,
        level=context.level,
        weights_N=weights_N,
        magnitude=size_of(*shown_SNK),
    )
    decision, reason = _decide(config, inference, scale)
    return measured(
        config,
        context,
        grids[0],
        inference,
        decision=decision,
        reason=f"slope {show_interval(inference, scale)} per doubling: {reason}",
        scale=scale,
        passing_side="above",
        margins=(config.min_lower,),
        p_value=inference.p_value(config.min_lower, "greater"),
        assumed=(inference.estimate, config.min_lower),
        details=details,
    )


def length_of(metric: str) -> float:
    """acc@128k -> 131072.

    Raises:
        ValueError: no length stands behind the @.
    """
    found = re.fullmatch(r"[^@]*@(\d+(?:\.\d+)?)([kKmM]?)", metric)
    if found is None:
        raise ValueError(
            f"metric {metric!r} names no length; expected one behind an @, as in acc@512, acc@8k "
            "or acc@1M, or give `lengths`"
        )
    return float(found[1]) * _UNITS[found[2].lower()]


def _controls(config: Slope, context: GateContext, first: ArmGrid) -> list[ArmGrid]:
    grids = level_grids(config, context, config.metrics, config.versus)
    # Raises where the two arms do not share their cells.
    context.paired(config.metrics[0], config.treatment, config.versus)
    assert grids[0].unit_ids == first.unit_ids
    return grids


def _arm_details(
    prefix: str,
    levels_SNK: FloatArray,
    config: Slope,
    weights_N: FloatArray | None,
    weights_K: FloatArray,
) -> dict[str, Any]:
    means_K = weighted_level_means(levels_SNK, weights_N).mean(axis=0)
    return {
        f"{prefix}level_means": dict(zip(config.metrics, means_K.tolist(), strict=True)),
        f"{prefix}slope_per_doubling": float(means_K @ weights_K),
    }


def _decide(config: Slope, inference: MeanInference, scale: Scale) -> tuple[Decision, str]:
    interval = inference.interval
    if interval is None:
        return "INVALID", no_interval(inference, "the slope")
    margin = show(config.min_lower, scale)
    if interval.low > config.min_lower:
        return "PASS", f"the lower bound lies above {margin}"
    if interval.high <= config.min_lower:
        return "FAIL", f"the upper bound lies below {margin}; not reached"
    return "INCONCLUSIVE", f"the interval holds {margin}"
