"""V2, gate shaping: a context-dependent factor on what enters the MLP's activation."""

from bem.adapters.gate_shaping.config import GateShapingConfig
from bem.adapters.gate_shaping.layer import GateShapingAdapter

CONFIG = GateShapingConfig
ADAPTER = GateShapingAdapter

__all__ = ["ADAPTER", "CONFIG", "GateShapingAdapter", "GateShapingConfig"]
