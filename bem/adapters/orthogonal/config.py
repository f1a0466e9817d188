"""Config of the orthogonal LoRA; it knows no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bem.interfaces import AdapterConfig


class OrthogonalConfig(AdapterConfig):
    """dW = (alpha / rank) * (I - Q_out Q_out^T) up down (I - Q_in Q_in^T)."""

    kind: ClassVar[str] = "orthogonal"

    rank: int = Field(default=8, ge=1)
    """Rank of the delta at every site."""
    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / rank."""
    avoid: str = Field(min_length=1)
    """Name of the adapter on the same base whose spans are avoided; it must have a static
    delta (LoRA) and is taken as it is when this adapter is built."""
    basis_rank: int = Field(default=8, ge=1)
    """Columns reserved for the avoided basis; at least the rank of that adapter."""
