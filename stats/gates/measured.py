"""Builds the result of a gate whose quantity is the mean of one grid. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stats.effects import effect_sizes
from stats.gates.base import GateBase, GateContext, identity
from stats.gates.wording import Scale
from stats.inference import MeanInference
from stats.result import Decision, GateResult, PassingSide
from stats.scores import ArmGrid, PairedGrid

ZERO_VARIATION = "zero variation: {what}, so no interval exists and nothing was tested"


def measured(
    config: GateBase,
    context: GateContext,
    grid: PairedGrid | ArmGrid,
    inference: MeanInference,
    *,
    decision: Decision,
    reason: str,
    estimand: str,
    criterion: str,
    scale: Scale,
    passing_side: PassingSide,
    margins: tuple[float, ...],
    p_value: float | None,
    assumed: tuple[float, float] | None,
    details: Mapping[str, Any] | None = None,
) -> GateResult:
    """A full result.

    Args:
        assumed: (true value, margin) for which the deciding sizes are computed where the gate
            is undecided, or None.
    """
    analysis = inference.analysis
    undecided = decision == "INCONCLUSIVE" and assumed is not None
    plan = inference.would_decide(*assumed, context.power) if undecided and assumed else None
    two_arms: dict[str, Any] = {}
    if isinstance(grid, PairedGrid):
        two_arms = {
            "treatment_mean": float(grid.treatment_SN.mean()),
            "control_mean": float(grid.control_SN.mean()),
            "effects": effect_sizes(grid.treatment_SN, grid.control_SN, level=context.level),
        }
    else:
        two_arms = {"treatment_mean": float(grid.values_SN.mean())}
    return GateResult(
        **identity(config),
        **two_arms,
        decision=decision,
        reason=reason,
        estimand=estimand,
        criterion=criterion,
        scale=scale,
        passing_side=passing_side,
        margins=margins,
        estimate=inference.estimate,
        interval=inference.interval,
        bootstrap=inference.bootstrap,
        standard_error=analysis.standard_error,
        df=analysis.df if not analysis.degenerate else None,
        p_value=p_value,
        mde=inference.mde(context.alpha, context.power),
        would_decide=plan,
        assumed=assumed[0] if assumed else None,
        components=analysis.components,
        seeds=grid.seeds,
        seed_estimates=analysis.seed_means,
        num_examples=len(grid.example_ids),
        num_units=analysis.num_units,
        details=dict(details or {}),
    )
