"""A mission that ended before its planned number of seeds. Data only.

For futility it is INCONCLUSIVE: never PROMOTE, because the plan was not carried out; never REJECT,
because figures that were looked at between do not show that a margin is out of reach at the stated
level; never INVALID for the cells that were not measured. For success (only where the mission file
asks for looks) it is PROMOTE at the level of the look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStop:
    """Why and on what a mission ended early."""

    kind: Literal["futility", "success"]
    seeds: tuple[int, ...]
    """The seeds that the decision rests on: the first ones of the plan."""
    planned: int
    """Number of seeds that were planned."""
    gate: str = ""
    """The gate that can hardly pass any more; empty for a success."""
    conditional_power: float | None = None
    conditional_power_min: float | None = None
    """What the mission file asks for."""

    @property
    def text(self) -> str:
        """The end in words."""
        count = f"after {len(self.seeds)} of {self.planned} seeds"
        if self.kind == "success":
            return f"decided at a planned look {count}"
        return (
            f"stopped for futility {count}: gate {self.gate!r} had a chance of "
            f"{self.conditional_power or 0.0:.1%} to pass at {self.planned} seeds "
            f"(limit {self.conditional_power_min or 0.0:.0%})"
        )
