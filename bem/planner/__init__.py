"""Plans over skill adapters: which exist, how they run chunk by chunk, how one is chosen."""

from bem.planner.engine import ChunkEngine, Over, Walk
from bem.planner.plans import PlanSpace
from bem.planner.policy import MacroPolicy, clone_behaviour
from bem.planner.rewards import RewardTable

__all__ = [
    "ChunkEngine",
    "MacroPolicy",
    "Over",
    "PlanSpace",
    "RewardTable",
    "Walk",
    "clone_behaviour",
]
