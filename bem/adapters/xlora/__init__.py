"""PEFT's X-LoRA: a classifier on a first pass weighs trained LoRAs a token (arXiv 2402.07148)."""

from bem.adapters.xlora.config import XLoraConfig
from bem.adapters.xlora.layer import XLoraAdapter

CONFIG = XLoraConfig
ADAPTER = XLoraAdapter

__all__ = ["ADAPTER", "CONFIG", "XLoraAdapter", "XLoraConfig"]
