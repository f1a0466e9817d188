"""Static low-rank adapter, LoRA (arXiv 2106.09685)."""

from bem.adapters.lora.config import LoraConfig
from bem.adapters.lora.layer import LoraAdapter

CONFIG = LoraConfig
ADAPTER = LoraAdapter

__all__ = ["ADAPTER", "CONFIG", "LoraAdapter", "LoraConfig"]
