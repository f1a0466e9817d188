"""Config of xlora; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from bem.interfaces import AdapterConfig


class XLoraConfig(AdapterConfig):
    """dW(x) = sum_k s_k(x) dW_k over trained static adapters, by PEFT."""

    kind: ClassVar[str] = "xlora"

    experts: tuple[str, ...] = Field(min_length=1)
    """Names of static adapters on the host when this one is built; their factors are copied."""
    expert_ranks: tuple[int, ...]
    """Their ranks, in the same order."""
    layerwise: bool = True
    """Weights of its own at every site, or one set for all."""
    depth: int = Field(default=1, ge=1)
    """Linear layers of the classifier."""
    controller_width: int = Field(default=16, ge=1)
    """Hidden units of the classifier, with depth above 1."""
    softmax: bool = True
    """Whether the weights of a token sum to 1."""
    top_k: int = Field(default=0, ge=0)
    """Experts that act on a token; 0: all."""

    @model_validator(mode="after")
    def _ranks_and_top_k_fit(self) -> Self:
        if len(self.experts) != len(self.expert_ranks):
            raise ValueError(f"{len(self.experts)} experts but {len(self.expert_ranks)} ranks")
        if self.top_k > len(self.experts):
            raise ValueError(f"top_k is {self.top_k}, more than the {len(self.experts)} experts")
        return self
