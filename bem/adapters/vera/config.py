"""Config of vera; it knows no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bem.interfaces import AdapterConfig


class VeraConfig(AdapterConfig):
    """dW = diag(b) B diag(d) A with A and B random, shared by all sites and frozen, by PEFT."""

    kind: ClassVar[str] = "vera"

    rank: int = Field(default=64, ge=1)
    """Rows of A and columns of B."""
    d_initial: float = Field(default=0.1, gt=0)
    """Start of every entry of d; b starts at zero."""
    projection_seed: int = Field(default=0, ge=0)
    """Seed of A and B: part of the method, not drawn from the run's generator."""
