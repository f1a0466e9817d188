"""Settings of the key-value slots."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SlotsConfig(BaseModel):
    """`slots` entries of a key, a value and a score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["slots"] = "slots"
    key_width: int = Field(default=32, ge=1)
    value_width: int = Field(default=32, ge=1)
    slots: int = Field(default=31, ge=1)
    train_slots: int = Field(default=31, ge=1)
    """Slots in training mode: with room for more, the gate of every position gets a gradient; what
    is tested always has `slots`."""
    keep: Literal["gate", "recent"] = "gate"
    """gate: the largest learned gates stay. recent: the sink and the latest positions stay."""
    sink: int = Field(default=4, ge=0)
    """With keep = recent: first positions of the stream that are never dropped."""

    @model_validator(mode="after")
    def _consistent(self) -> SlotsConfig:
        if self.sink >= self.slots:
            raise ValueError(f"sink is {self.sink}; at most slots - 1 = {self.slots - 1}")
        if self.train_slots < self.slots:
            raise ValueError(f"train_slots is {self.train_slots}; at least slots = {self.slots}")
        return self
