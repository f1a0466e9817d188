"""PEFT's DoRA: magnitude and direction apart (arXiv 2402.09353)."""

from bem.adapters.dora.config import DoraConfig
from bem.adapters.dora.layer import DoraAdapter

CONFIG = DoraConfig
ADAPTER = DoraAdapter

__all__ = ["ADAPTER", "CONFIG", "DoraAdapter", "DoraConfig"]
