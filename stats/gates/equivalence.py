"""Equivalence by two one-sided tests on the log ratio of paired positive figures.

Made for latency and memory: a ratio is what matters, its log is symmetric, and timings of both
arms are taken interleaved on the same example so that the machine's drift cancels. `sided: upper`
asks only that the treatment costs no more; a faster one passes.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from stats.errors import GateError
from stats.gates.base import GateContext, PairedGate
from stats.gates.measured import measured
from stats.gates.wording import Scale, no_interval
from stats.inference import MeanInference, infer_mean, size_of
from stats.ratios import ratio_of
from stats.result import Decision, GateResult


class Equivalence(PairedGate):
    """Passes when the interval of the mean log ratio lies within the margin."""

    kind: Literal["equivalence"]
    log_ratio_margin: float = Field(gt=0, allow_inf_nan=False)
    """Largest |log(treatment / control)|; 0.1398 is +15 %."""
    sided: Literal["both", "upper"] = "both"
    """upper: only a treatment above the margin fails."""

    def quantity(self) -> str:
        return (
            f"mean log ratio of {self.metric}, {self.treatment} over {self.versus}, paired by seed "
            "and item"
        )

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        low = f"{math.exp(-self.log_ratio_margin):.3f} < " if self.sided == "both" else ""
        return f"{low}ratio < {math.exp(self.log_ratio_margin):.3f} with its whole interval"


CONFIG = Equivalence


def evaluate(config: Equivalence, context: GateContext) -> GateResult:
    """TOST with the two-way t."""
    grid = context.paired(config.metric, config.treatment, config.versus)
    least = min(float(grid.treatment_SN.min()), float(grid.control_SN.min()))
    if least <= 0:
        raise GateError(
            f"Gate {config.id!r}: a log ratio needs values > 0, {config.metric!r} holds {least}."
        )
    logs = (np.log(grid.treatment_SN), np.log(grid.control_SN))
    inference = infer_mean(
        logs[0] - logs[1],
        context.resampler,
        level=context.level,
        weights_N=config.weights(grid),
        magnitude=size_of(*logs),
    )
    margin = config.log_ratio_margin
    decision, verdict = _decide(config, inference)
    ratio = ratio_of(inference.estimate)
    limits = None
    if inference.interval is not None:
        limits = [ratio_of(inference.interval.low), ratio_of(inference.interval.high)]
    upper = inference.p_value(margin, "less")
    lower = inference.p_value(-margin, "greater") if config.sided == "both" else 0.0
    shown = f"ratio {ratio:.4g}" + (f" [{limits[0]:.4g}, {limits[1]:.4g}]" if limits else "")
    return measured(
        config,
        context,
        grid,
        inference,
        decision=decision,
        reason=f"{shown}: {verdict}",
        scale="raw",
        passing_side="within" if config.sided == "both" else "below",
        margins=(-margin, margin) if config.sided == "both" else (margin,),
        p_value=None if upper is None or lower is None else max(upper, lower),
        assumed=(0.0, margin),
        details={"ratio": ratio, "ratio_interval": limits, "sided": config.sided},
    )


def _decide(config: Equivalence, inference: MeanInference) -> tuple[Decision, str]:
    margin, interval = config.log_ratio_margin, inference.interval
    if interval is None:
        return "INVALID", no_interval(inference, "the log ratio")
    below = interval.high < margin
    above = interval.low > -margin or config.sided == "upper"
    if below and above:
        return "PASS", "the whole interval lies within the margin"
    if interval.low >= margin or (config.sided == "both" and interval.high <= -margin):
        return "FAIL", "the whole interval lies outside the margin"
    return "INCONCLUSIVE", "the interval holds the margin"
