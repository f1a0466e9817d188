"""The public face: one object that loads a base, adapts it, generates, explains and is saved."""

from bem.model.analysis import LayerRouting, RoutingAnalysis
from bem.model.config import BEMConfig
from bem.model.hints import HintTable
from bem.model.model import BEMModel
from bem.model.training import LabelledExample, encode_labelled

__all__ = [
    "BEMConfig",
    "BEMModel",
    "HintTable",
    "LabelledExample",
    "LayerRouting",
    "RoutingAnalysis",
    "encode_labelled",
]
