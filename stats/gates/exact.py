"""Exact: a size of the treatment agrees with the control's within a tolerance.

Integers, compared as they are: no interval, no p-value. The adapter-only counts stand beside the
figure that decides.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stats.costs import ArmCost
from stats.errors import GateError
from stats.gates.base import GateContext, TwoArmGate, identity
from stats.gates.wording import Scale
from stats.result import GateResult

Quantity = Literal["trainable_params", "adapter_params", "forward_flops", "persistent_bytes"]


class Exact(TwoArmGate):
    """Passes when treatment / control lies within 1 +- tolerance."""

    kind: Literal["exact"]
    metric: Quantity = "trainable_params"
    """Figure of ArmCost to compare."""
    tolerance: float = Field(default=0.05, ge=0, le=1)
    """Largest relative difference."""
    at_most: bool = False
    """True: only a treatment above the tolerance fails."""

    def quantity(self) -> str:
        return f"{self.metric} of {self.treatment} relative to {self.versus}, exact"

    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        return f"{'at most' if self.at_most else 'within'} {100 * self.tolerance:.4g}%"


CONFIG = Exact


def evaluate(config: Exact, context: GateContext) -> GateResult:
    """Compares two integers."""
    pair = (context.cost(config.treatment), context.cost(config.versus))
    ours, theirs = (quantity_of(cost, config.metric) for cost in pair)
    if theirs <= 0:
        raise GateError(
            f"Gate {config.id!r}: {config.metric} of control {config.versus!r} is {theirs:g}; "
            "a relative difference does not exist."
        )
    relative = ours / theirs - 1.0
    # Integers are compared as they are: 1,050 against 1,000 is within 5 %, and a quotient is not.
    allowed = config.tolerance * theirs
    inside = ours - theirs <= allowed and (config.at_most or ours - theirs >= -allowed)
    details: dict[str, Any] = {
        "treatment_value": ours,
        "control_value": theirs,
        "adapter_params": [cost.adapter_params for cost in pair],
    }
    return GateResult(
        **identity(config),
        decision="PASS" if inside else "FAIL",
        reason=f"{ours:,.0f} against {theirs:,.0f} ({relative:+.2%})",
        estimand=config.quantity(),
        criterion=config.rule(),
        passing_side="below" if config.at_most else "equal",
        margins=(config.tolerance,) if config.at_most else (-config.tolerance, config.tolerance),
        estimate=relative,
        details=details,
    )


def quantity_of(cost: ArmCost, quantity: Quantity) -> float:
    """One figure of an arm's cost.

    Raises:
        GateError: the mission did not measure it.
    """
    value = getattr(cost, quantity)
    if value is None:
        raise GateError(f"Arm {cost.arm!r}: {quantity} was not measured.")
    return float(value)
