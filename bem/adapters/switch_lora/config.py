"""Config of Switch LoRA; it knows no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bem.interfaces import AdapterConfig


class SwitchLoraConfig(AdapterConfig):
    """dW(x) = (alpha / rank) * p_e(x) up_e down_e with e the best expert of the token."""

    kind: ClassVar[str] = "switch_lora"

    rank: int = Field(default=4, ge=1)
    """Rank of each expert at every site."""
    alpha: float = Field(default=8.0, gt=0)
    """Numerator of the scale alpha / rank."""
    experts: int = Field(default=4, ge=2)
    """Experts at every site."""
    capacity_factor: float = Field(default=1.25, gt=0)
    """In training an expert takes at most ceil(capacity_factor * tokens / experts) of a row."""
    balance_weight: float = Field(default=0.01, ge=0)
    """Weight of the balance loss, a mean over sites."""
