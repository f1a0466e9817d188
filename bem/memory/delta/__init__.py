"""A matrix memory written by the delta rule under a hard gate."""

from __future__ import annotations

from bem.memory.delta.config import DeltaConfig
from bem.memory.delta.store import DeltaStore

__all__ = ["DeltaConfig", "DeltaStore"]
