"""Config of dora; it knows no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bem.interfaces import AdapterConfig


class DoraConfig(AdapterConfig):
    """W + dW = m * (W + (alpha / rank) * up down) / ||W + (alpha / rank) * up down||, by PEFT."""

    kind: ClassVar[str] = "dora"

    rank: int = Field(default=8, ge=1)
    """Rank of the delta at every site."""
    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / rank."""
