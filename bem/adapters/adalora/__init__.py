"""PEFT's AdaLoRA: rank goes where it matters (arXiv 2303.10512)."""

from bem.adapters.adalora.config import AdaLoraConfig
from bem.adapters.adalora.layer import AdaLoraAdapter

CONFIG = AdaLoraConfig
ADAPTER = AdaLoraAdapter

__all__ = ["ADAPTER", "CONFIG", "AdaLoraAdapter", "AdaLoraConfig"]
