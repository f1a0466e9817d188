"""Settings of the memory language model, of its write gate and of its stores.

Knows no tensors. A store's config stands in the store's own folder.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bem.memory.delta.config import DeltaConfig
from bem.memory.slots.config import SlotsConfig

StoreConfig = Annotated[DeltaConfig | SlotsConfig, Field(discriminator="kind")]


class GateConfig(BaseModel):
    """The write gate: beta = sigmoid(g(x) + W c), exactly zero below a threshold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(default=0.3, ge=0, lt=1)
    """Below it beta is exactly 0 (a hard gate); 0 makes the gate soft."""
    coupling: int = Field(default=8, ge=0)
    """Width of the chunk-sticky recurrence c; 0 leaves it out."""
    bias: float = 0.0
    """Where the gate's logit starts."""


class MemoryLMConfig(BaseModel):
    """A sliding-window model with one memory layer in front of its blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab: int = Field(ge=4)
    width: int = Field(default=64, ge=8)
    heads: int = Field(default=2, ge=1)
    blocks: int = Field(default=2, ge=1)
    mlp_ratio: int = Field(default=4, ge=1)
    chunk: int = Field(default=64, ge=4)
    """Tokens of a chunk, and of the sliding window."""
    store: StoreConfig
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _consistent(self) -> MemoryLMConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if isinstance(self.store, DeltaConfig) and self.store.write_cap > self.chunk:
            raise ValueError(
                f"store.write_cap is {self.store.write_cap}; at most chunk = {self.chunk}"
            )
        return self
