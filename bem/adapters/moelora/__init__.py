"""MoELoRA: top-k of several LoRA experts for each token (arXiv 2402.12851)."""

from bem.adapters.moelora.config import MoeLoraConfig
from bem.adapters.moelora.layer import MoeLoraAdapter

CONFIG = MoeLoraConfig
ADAPTER = MoeLoraAdapter

__all__ = ["ADAPTER", "CONFIG", "MoeLoraAdapter", "MoeLoraConfig"]
