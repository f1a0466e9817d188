"""Settings of the delta memory."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DeltaConfig(BaseModel):
    """A matrix of value_width x key_width floats."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["delta"] = "delta"
    key_width: int = Field(default=64, ge=1)
    value_width: int = Field(default=32, ge=1)
    write_cap: int = Field(default=24, ge=1)
    """Most writes a chunk: those with the largest gates."""
