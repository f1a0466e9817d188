"""Key-value slots: a small cache that keeps some positions whole."""

from __future__ import annotations

from bem.memory.slots.config import SlotsConfig
from bem.memory.slots.store import SlotStore

__all__ = ["SlotStore", "SlotsConfig"]
