"""Size of an arm. Exact integers; knows nothing of how they were measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmCost:
    """What an arm costs; parity is judged on it."""

    arm: str
    trainable_params: int
    """All parameters that training may change."""
    adapter_params: int
    """Parameters of the adapters alone."""
    forward_flops: float
    """Per evaluated example or token (the mission says which); integer-exact."""
    persistent_bytes: int | None = None
    """Memory carried along a stream, where the mission compares it."""
