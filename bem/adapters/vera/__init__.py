"""PEFT's VeRA: shared random factors, trained scalings (arXiv 2310.11454)."""

from bem.adapters.vera.config import VeraConfig
from bem.adapters.vera.layer import VeraAdapter

CONFIG = VeraConfig
ADAPTER = VeraAdapter

__all__ = ["ADAPTER", "CONFIG", "VeraAdapter", "VeraConfig"]
