"""Config of the Kronecker BEM (V3); it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bem.routing.prompt import PromptCodeConfig


class KroneckerConfig(PromptCodeConfig):
    """dW = (alpha / rank) * sum_r c_r A_r (x) B_r."""

    kind: ClassVar[str] = "kronecker"

    targets: str | tuple[str, ...] = "mlp"
    """Where linears are looked for."""
    where: Literal["mlp_output", "targets"] = "mlp_output"
    """Of these, the MLP's down projections; or all of them."""
    rank: int = Field(default=8, ge=1)
    """Kronecker terms at every site, and size of its code. Their sum can have full rank."""
    alpha: float = Field(default=8.0, gt=0)
    """Numerator of the scale alpha / rank."""
