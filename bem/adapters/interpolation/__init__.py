"""Interpolation BEM: a controller mixes trained, frozen low-rank adapters."""

from bem.adapters.interpolation.config import InterpolationConfig
from bem.adapters.interpolation.layer import InterpolationAdapter

CONFIG = InterpolationConfig
ADAPTER = InterpolationAdapter

__all__ = ["ADAPTER", "CONFIG", "InterpolationAdapter", "InterpolationConfig"]
