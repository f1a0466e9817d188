"""Orthogonal LoRA: a low-rank delta outside another adapter's input and output spans."""

from bem.adapters.orthogonal.config import OrthogonalConfig
from bem.adapters.orthogonal.layer import OrthogonalAdapter

CONFIG = OrthogonalConfig
ADAPTER = OrthogonalAdapter

__all__ = ["ADAPTER", "CONFIG", "OrthogonalAdapter", "OrthogonalConfig"]
