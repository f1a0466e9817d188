"""Config of gate shaping (V2); it knows no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bem.routing.prompt import PromptCodeConfig


class GateShapingConfig(PromptCodeConfig):
    """a' = a * (1 + (alpha / rank) * up (c * (down x))) with a the MLP's gate pre-activation."""

    kind: ClassVar[str] = "gate_shaping"

    targets: str | tuple[str, ...] = "mlp"
    """Where gates are looked for; of these, only the MLP's gates are shaped."""
    rank: int = Field(default=8, ge=1)
    """Rank of the factor, and size of its code."""
    alpha: float = Field(default=8.0, gt=0)
    """Numerator of the scale alpha / rank."""
