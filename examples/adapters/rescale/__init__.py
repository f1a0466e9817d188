"""Adapter `rescale`: each output of a linear multiplied by a learned number."""

from bem.adapters.rescale.config import RescaleConfig
from bem.adapters.rescale.layer import RescaleAdapter

CONFIG = RescaleConfig
ADAPTER = RescaleAdapter
