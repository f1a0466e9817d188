"""Context-dependent adapters (bolt-on expert modules) on a frozen Hugging Face base."""

from bem.base import BaseModel, load_base
from bem.context import RoutingContext
from bem.injection import AdapterHost
from bem.model import BEMConfig, BEMModel
from bem.registry import adapter_class, adapter_kinds, add_adapter_folder, make_config

__all__ = [
    "AdapterHost",
    "BEMConfig",
    "BEMModel",
    "BaseModel",
    "RoutingContext",
    "adapter_class",
    "adapter_kinds",
    "add_adapter_folder",
    "load_base",
    "make_config",
]
