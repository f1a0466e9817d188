"""Config of the dynamic-rank BEM (V1); it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from bem.routing.prompt import PromptCodeConfig


class DynamicRankConfig(PromptCodeConfig):
    """dW = (alpha / active_rank) * diag(gate over head groups) up diag(k-hot mask) down."""

    kind: ClassVar[str] = "dynamic_rank"

    targets: str | tuple[str, ...] = "attention"
    """A preset ("attention", "mlp", "all-linear") or suffixes of module names."""
    rank: int = Field(default=8, ge=2)
    """Rank directions at every site."""
    active_rank: int = Field(default=4, ge=1)
    """How many of them act on a sequence."""
    alpha: float = Field(default=8.0, gt=0)
    """Numerator of the scale alpha / active_rank."""
    head_groups: int = Field(default=2, ge=1)
    """Groups of neighbouring heads, each with a gate in (0, 2); a divisor of the number of
    key-value heads keeps heads whole."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.active_rank >= self.rank:
            raise ValueError(f"active_rank is {self.active_rank}; rank {self.rank} must be larger")
        return self
