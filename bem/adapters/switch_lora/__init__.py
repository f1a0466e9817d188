"""Switch LoRA: one of several LoRA experts for each token, with a capacity (after 2101.03961)."""

from bem.adapters.switch_lora.config import SwitchLoraConfig
from bem.adapters.switch_lora.layer import SwitchLoraAdapter

CONFIG = SwitchLoraConfig
ADAPTER = SwitchLoraAdapter

__all__ = ["ADAPTER", "CONFIG", "SwitchLoraAdapter", "SwitchLoraConfig"]
