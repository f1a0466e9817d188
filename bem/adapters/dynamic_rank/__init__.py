"""V1, dynamic rank: k of R ranks by the prompt, and a gate on each group of heads."""

from bem.adapters.dynamic_rank.config import DynamicRankConfig
from bem.adapters.dynamic_rank.layer import DynamicRankAdapter

CONFIG = DynamicRankConfig
ADAPTER = DynamicRankAdapter

__all__ = ["ADAPTER", "CONFIG", "DynamicRankAdapter", "DynamicRankConfig"]
