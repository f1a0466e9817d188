"""Config of MoELoRA; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from bem.interfaces import AdapterConfig


class MoeLoraConfig(AdapterConfig):
    """dW(x) = (alpha / rank) * sum over the top-k experts of g_e(x) up_e down_e."""

    kind: ClassVar[str] = "moelora"

    rank: int = Field(default=4, ge=1)
    """Rank of each expert at every site."""
    alpha: float = Field(default=8.0, gt=0)
    """Numerator of the scale alpha / rank."""
    experts: int = Field(default=4, ge=2)
    """Experts at every site."""
    top_k: int = Field(default=2, ge=1)
    """Experts that act on a token."""
    balance_weight: float = Field(default=0.01, ge=0)
    """Weight of the balance loss, a mean over sites; 0 leaves it out."""

    @model_validator(mode="after")
    def _top_k_within_experts(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, more than the {self.experts} experts")
        return self
