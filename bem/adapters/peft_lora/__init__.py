"""PEFT's static LoRA (arXiv 2106.09685), unchanged."""

from bem.adapters.peft_lora.config import PeftLoraConfig
from bem.adapters.peft_lora.layer import PeftLoraAdapter

CONFIG = PeftLoraConfig
ADAPTER = PeftLoraAdapter

__all__ = ["ADAPTER", "CONFIG", "PeftLoraAdapter", "PeftLoraConfig"]
