"""SMoRA: every rank of one LoRA is an expert, k of them act on a token (arXiv 2501.15103)."""

from bem.adapters.smora.config import SmoraConfig
from bem.adapters.smora.layer import SmoraAdapter

CONFIG = SmoraConfig
ADAPTER = SmoraAdapter

__all__ = ["ADAPTER", "CONFIG", "SmoraAdapter", "SmoraConfig"]
