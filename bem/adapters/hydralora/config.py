"""Config of HydraLoRA; it knows no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bem.interfaces import AdapterConfig


class HydraLoraConfig(AdapterConfig):
    """dW(x) = (alpha / rank) * sum_k w_k(x) up_k down."""

    kind: ClassVar[str] = "hydralora"

    rank: int = Field(default=8, ge=1)
    """Rank of the shared down projection and of every head."""
    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / rank."""
    heads: int = Field(default=3, ge=2)
    """Up projections at every site."""
