"""Online learning of adapters: replay, anchors, canary gate, learner, correction memory."""

from bem.online.anchors import Anchors, diagonal_fisher
from bem.online.drift import DriftMonitor, drift_points
from bem.online.guard import Action, CanaryConfig, CanaryReport, decide
from bem.online.learner import LearnerConfig, OnlineLearner, UpdateReport
from bem.online.memory import CodeMemory
from bem.online.replay import Reservoir

__all__ = [
    "Action",
    "Anchors",
    "CanaryConfig",
    "CanaryReport",
    "CodeMemory",
    "DriftMonitor",
    "LearnerConfig",
    "OnlineLearner",
    "Reservoir",
    "UpdateReport",
    "decide",
    "diagonal_fisher",
    "drift_points",
]
