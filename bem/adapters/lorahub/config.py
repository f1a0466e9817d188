"""Config of lorahub; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from bem.interfaces import AdapterConfig


class LoraHubConfig(AdapterConfig):
    """One static LoRA made of several trained ones with one weight each."""

    kind: ClassVar[str] = "lorahub"

    experts: tuple[str, ...] = Field(min_length=1)
    """Names of static adapters on the host when this one is built; their factors are copied."""
    expert_ranks: tuple[int, ...]
    """Their ranks, in the same order."""
    combination: Literal["linear", "cat"] = "linear"
    """PEFT's name of the sum: "linear" adds the factors (ranks must be equal), "cat" the deltas."""

    @model_validator(mode="after")
    def _ranks_fit(self) -> Self:
        if len(self.experts) != len(self.expert_ranks):
            raise ValueError(f"{len(self.experts)} experts but {len(self.expert_ranks)} ranks")
        if self.combination == "linear" and len(set(self.expert_ranks)) > 1:
            raise ValueError(f"linear needs equal ranks, got {self.expert_ranks}; use cat")
        return self

    @property
    def rank(self) -> int:
        """Rank of the mixture."""
        return self.expert_ranks[0] if self.combination == "linear" else sum(self.expert_ranks)
