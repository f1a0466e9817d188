"""Config of SMoRA; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from bem.interfaces import AdapterConfig


class SmoraConfig(AdapterConfig):
    """dW(x) = scale * up diag(g(x)) down with g zero outside the top `active` ranks."""

    kind: ClassVar[str] = "smora"

    rank: int = Field(default=16, ge=2)
    """Rank directions at every site; each is an expert."""
    active: int = Field(default=4, ge=1)
    """Directions that act on a token."""
    scale: float = Field(default=2.0, gt=0)
    """Factor of the delta: alpha / active of a LoRA that has the active directions only."""
    bias_rate: float = Field(default=0.001, ge=0)
    """Step of the balance bias after each optimiser step; 0 leaves the bias at zero."""

    @model_validator(mode="after")
    def _active_within_rank(self) -> Self:
        if self.active > self.rank:
            raise ValueError(f"active is {self.active}, more than the rank {self.rank}")
        return self
