"""Long memory: a sliding-window language model with one store of fixed size beside it.

The store is the only part that differs between arms: a matrix written by the delta rule, or
key-value slots. This package knows no task, no mission and no Hugging Face model.
"""

from __future__ import annotations

from bem.memory.config import GateConfig, MemoryLMConfig, StoreConfig
from bem.memory.interfaces import MemoryStore, StoreState
from bem.memory.model import MemoryLM, StreamState

__all__ = [
    "GateConfig",
    "MemoryLM",
    "MemoryLMConfig",
    "MemoryStore",
    "StoreConfig",
    "StoreState",
    "StreamState",
]
