"""Builds the result of a gate whose quantity is the mean of one grid. Decides nothing.

An undecided result always says what would decide it: the smallest detectable distance from the
margin and the sizes at which the gate would be decided stand in its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stats.effects import effect_sizes
from stats.gates.base import GateContext, MeanGate, identity
from stats.gates.wording import Scale, size
from stats.inference import MeanInference
from stats.result import Decision, GateResult, PassingSide, WouldDecide
from stats.scores import ArmGrid, FloatArray, PairedGrid


def measured(
    config: MeanGate,
    context: GateContext,
    grid: PairedGrid | ArmGrid,
    inference: MeanInference,
    *,
    decision: Decision,
    reason: str,
    scale: Scale,
    passing_side: PassingSide,
    margins: tuple[float, ...],
    p_value: float | None,
    assumed: tuple[float, float] | None,
    details: Mapping[str, Any] | None = None,
    plan: WouldDecide | None = None,
    turned: bool = False,
) -> GateResult:
    """A full result.

    Args:
        assumed: (true value, margin) for which the deciding sizes are computed where the gate
            is undecided, or None.
        plan: the deciding sizes, where the mean is not what keeps the gate undecided.
        turned: the estimate is control minus treatment; effect sizes then are too.
    """
    analysis = inference.analysis
    mde = inference.mde(context.alpha, context.power, assumed[1] if assumed else None)
    if decision != "INCONCLUSIVE":
        plan = None
    elif plan is None and assumed is not None:
        plan = inference.would_decide(*assumed, context.alpha, context.power)
    if plan is not None and grid.clustered:
        plan = replace(plan, text=f"{plan.text} (counted in clusters)")
    if decision == "INCONCLUSIVE":
        reason = f"{reason}; {_deciding(plan, mde, scale)}"
    weights_N = config.weights(grid)
    two_arms: dict[str, Any] = {}
    if isinstance(grid, PairedGrid):
        arms = (grid.treatment_SN, grid.control_SN)
        two_arms = {
            "treatment_mean": mean(grid.treatment_SN, weights_N),
            "control_mean": mean(grid.control_SN, weights_N),
            "effects": effect_sizes(
                *(arms[::-1] if turned else arms),
                level=context.level,
                unit="clusters" if grid.clustered else "examples",
                weights_N=weights_N,
            ),
        }
    else:
        two_arms = {"treatment_mean": mean(grid.values_SN, weights_N)}
    shown = dict(details or {})
    if weights_N is not None:
        sizes_N = grid.unit_sizes_N
        shown["cluster_sizes"] = [int(sizes_N.min()), float(np.median(sizes_N)), int(sizes_N.max())]
        shown["effective_clusters"] = float(weights_N.sum() ** 2 / (weights_N @ weights_N))
    return GateResult(
        **identity(config),
        **two_arms,
        decision=decision,
        reason=reason,
        estimand=config.estimand(grid),
        criterion=config.rule(scale, context.alpha),
        scale=scale,
        passing_side=passing_side,
        margins=margins,
        estimate=inference.estimate,
        interval=inference.interval,
        bootstrap=inference.bootstrap,
        standard_error=analysis.standard_error,
        df=analysis.df if not analysis.degenerate else None,
        p_value=p_value,
        mde=mde,
        would_decide=plan,
        assumed=assumed[0] if assumed else None,
        components=analysis.components,
        seeds=grid.seeds,
        seed_estimates=analysis.seed_means,
        num_examples=len(grid.example_ids),
        num_units=analysis.num_units,
        details=shown,
    )


def _deciding(plan: WouldDecide | None, mde: float | None, scale: Scale) -> str:
    """What would decide, as part of a reason."""
    if mde is None:
        return "no detectable effect and no deciding size are known, because nothing varied"
    text = f"this size detects {size(mde, scale)} from a margin"
    return text if plan is None else f"{text}; would decide: {plan.text}"


def mean(values_SN: FloatArray, weights_N: FloatArray | None) -> float:
    """Mean over examples (weights: sizes of the units) or over units."""
    if weights_N is None:
        return float(values_SN.mean())
    return float(values_SN.mean(axis=0) @ weights_N / weights_N.sum())
