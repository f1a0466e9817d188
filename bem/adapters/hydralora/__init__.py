"""HydraLoRA: one shared down projection, several up projections, a router (arXiv 2404.19245)."""

from bem.adapters.hydralora.config import HydraLoraConfig
from bem.adapters.hydralora.layer import HydraLoraAdapter

CONFIG = HydraLoraConfig
ADAPTER = HydraLoraAdapter

__all__ = ["ADAPTER", "CONFIG", "HydraLoraAdapter", "HydraLoraConfig"]
