"""Parity of size: a comparison of methods is fair only between arms of equal size.

Pure comparison of integers; what follows from a broken parity is the verdict's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from stats.costs import ArmCost

Quantity = Literal["trainable_params", "adapter_params", "forward_flops", "persistent_bytes"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityRule:
    """Which arms must be of equal size, and in what."""

    tolerance: float = 0.05
    """Largest relative difference, treatment against control."""
    pairs: tuple[tuple[str, str], ...] = ()
    """(treatment, control) pairs."""
    check_trainable: bool = True
    check_flops: bool = True
    check_bytes: bool = False

    def checked(self) -> tuple[Quantity, ...]:
        """The figures that decide."""
        wanted: tuple[tuple[bool, Quantity], ...] = (
            (self.check_trainable, "trainable_params"),
            (self.check_flops, "forward_flops"),
            (self.check_bytes, "persistent_bytes"),
        )
        return tuple(quantity for check, quantity in wanted if check)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityRow:
    """One figure of one pair of arms."""

    treatment: str
    control: str
    quantity: str
    treatment_value: float | None
    """None: not measured."""
    control_value: float | None
    relative_difference: float | None
    """treatment / control - 1; None where the control's figure is 0 or missing."""
    tolerance: float
    checked: bool
    """False: shown, but it decides nothing."""
    ok: bool
    """Within the tolerance."""

    def problem(self) -> str:
        """Why a checked row breaks parity, in words."""
        values = (self.treatment_value, self.control_value)
        ours, theirs = ("missing" if v is None else f"{v:,.0f}" for v in values)
        relative = self.relative_difference
        shown = "" if relative is None else f" ({relative:+.1%})"
        return (
            f"parity broken: {self.quantity} of {self.treatment} {ours} against {self.control} "
            f"{theirs}{shown}, tolerance {self.tolerance:.0%}"
        )


def parity_rows(rule: ParityRule, costs: Mapping[str, ArmCost]) -> tuple[ParityRow, ...]:
    """Every figure of every pair, checked or not; unmeasured unchecked figures are left out."""
    rows: list[ParityRow] = []
    for treatment, control in rule.pairs:
        for quantity in QUANTITIES:
            checked = quantity in rule.checked()
            ours, theirs = (_value(costs.get(arm), quantity) for arm in (treatment, control))
            if not checked and (ours is None or theirs is None):
                continue
            rows.append(
                ParityRow(
                    treatment=treatment,
                    control=control,
                    quantity=quantity,
                    treatment_value=ours,
                    control_value=theirs,
                    relative_difference=ours / theirs - 1.0
                    if ours is not None and theirs
                    else None,
                    tolerance=rule.tolerance,
                    checked=checked,
                    ok=ours is not None
                    and theirs is not None
                    and abs(ours - theirs) <= rule.tolerance * theirs,
                )
            )
    return tuple(rows)


def _value(cost: ArmCost | None, quantity: Quantity) -> float | None:
    value = None if cost is None else getattr(cost, quantity)
    return None if value is None else float(value)
