"""Config of adalora; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from bem.interfaces import AdapterConfig


class AdaLoraConfig(AdapterConfig):
    """dW = (alpha / rank) * P diag(E) Q, of whose directions a share is kept, by PEFT.

    Trained for exactly `total_steps`: warm-up at full rank, then a shrinking budget, then
    `final_steps` with the ranks that were found.
    """

    kind: ClassVar[str] = "adalora"

    rank: int = Field(default=12, ge=2)
    """Directions at every site at the start; all of them are parameters."""
    keep: float = Field(default=2 / 3, gt=0, le=1)
    """The share of directions that remains, over all sites together."""
    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / rank."""
    total_steps: int = Field(ge=4)
    """Optimiser steps of the training that is to come."""
    warmup_steps: int = Field(ge=0)
    """Steps before the first direction is given up."""
    final_steps: int = Field(ge=1)
    """Steps after the last one is."""
    interval: int = Field(default=1, ge=1)
    """Steps between two allocations."""
    orthogonality_weight: float = Field(default=0.5, ge=0)
    """Weight of || P^T P - I || + || Q Q^T - I ||, a mean over the factors."""
    importance_decay: float = Field(default=0.85, gt=0, lt=1)
    """Of the moving average of importance."""
    uncertainty_decay: float = Field(default=0.85, gt=0, lt=1)
    """Of the moving average of its uncertainty."""

    @model_validator(mode="after")
    def _steps_left_to_allocate(self) -> Self:
        if self.warmup_steps + self.final_steps >= self.total_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and final_steps {self.final_steps} leave none "
                f"of the {self.total_steps} steps for allocation"
            )
        return self

    @property
    def target_rank(self) -> int:
        """The mean rank that remains."""
        return max(1, round(self.rank * self.keep))
