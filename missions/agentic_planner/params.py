"""Settings of mission A, as `params:` of its mission file gives them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from missions.agentic_planner.queries import Operation


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataParams(_Strict):
    """The world of records, and the index over them."""

    entities: int = Field(ge=40)
    """Entities a split, with three one-fact records each; each split has its own index."""
    stale_share: float = Field(gt=0, lt=1)
    """Share of the entities whose records are out of date."""
    operations: tuple[Operation, ...] = Field(min_length=1)
    """What ReF and RReF ask for."""
    encoder_dim: int = Field(ge=8)
    """Coordinates of the hashed encoder."""
    top_k: int = Field(ge=2)
    """Records that a retrieval brings."""


class AdapterParams(_Strict):
    """A generated BEM with a sequence code."""

    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    controller_width: int = Field(ge=1)
    targets: str | tuple[str, ...]
    pool: Literal["attention", "mean", "last"] = "mean"
    feature_layer: int = Field(default=0, ge=0)


class TrainingParams(_Strict):
    """Training on gold chains."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    bf16: bool = False


class FusedTrainingParams(TrainingParams):
    """Training of the fused adapter: on gold chains, and perhaps on outcomes."""

    marker_weight: float = Field(default=1.0, gt=0)
    """Weight of a marker in the loss; every written token weighs 1."""
    outcomes: Literal["none", "experts", "own"] = "none"
    """What it learns of executed plans. experts: on the train queries of the planner's reward table
    it learns plans drawn by their reward there in place of the gold ones. own: after `steps` it
    runs every plan itself, then learns for `outcome_steps` from its own right answers."""
    outcome_queries: int = Field(default=0, ge=0)
    """own: train queries on which it runs every plan."""
    outcome_steps: int = Field(default=0, ge=0)
    """own: steps after that."""

    @model_validator(mode="after")
    def _consistent(self) -> FusedTrainingParams:
        given = (self.outcome_queries > 0, self.outcome_steps > 0)
        if given != (self.outcomes == "own",) * 2:
            raise ValueError(
                f"outcomes is {self.outcomes!r}, outcome_queries {self.outcome_queries} and "
                f"outcome_steps {self.outcome_steps}; both are > 0 for 'own', 0 otherwise"
            )
        return self


class PolicyParams(_Strict):
    """The macro-policy and its behaviour cloning."""

    queries: int = Field(ge=5)
    """Train queries on which every plan is scored (the first ones of the train split)."""
    labels: Literal["outcomes", "gold", "both"] = "outcomes"
    """What it clones. outcomes: plans by their reward on the scored queries. gold: the gold plans
    of the chains that the adapters learn from, as the fused adapter is told them. both: outcomes on
    the scored queries, gold plans on the rest."""
    horizon: int = Field(default=3, ge=1, le=3)
    width: int = Field(ge=1)
    step_cost: float = Field(default=0.05, ge=0)
    """What a plan's step costs, in exact match."""
    temperature: float = Field(default=0.05, ge=0)
    """Softness of what is cloned (see bem.planner.rewards); 0: the best plan of each query."""
    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


class Params(_Strict):
    """Everything."""

    data: DataParams
    skill: AdapterParams
    """Each of the three experts."""
    fused: AdapterParams
    """The one adapter of the control."""
    training: TrainingParams
    """Of the experts, together."""
    fused_training: FusedTrainingParams
    policy: PolicyParams
    eval_rows: int = Field(default=128, ge=1)
    """Queries that run side by side when plans are scored."""
