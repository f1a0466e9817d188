"""Settings of mission D, as they stand under `params:` of its mission file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusParams(_Strict):
    """What a document looks like."""

    num_keys: int = Field(ge=4)
    """Keys in all, each one token: the world's field words first."""
    num_values: int = Field(ge=4)
    """Values in all, each one token: the world's syllables first."""
    heldout_share: float = Field(gt=0, lt=1)
    """Share of the keys and of the values that no training stream contains."""
    pairs: Positive
    """key-value pairs in a document's context."""
    queries: Positive
    """Queries after the context; at most `pairs`."""
    shortcut_rate: float = Field(ge=0, le=1)
    """Probability that a value equals the lexical prior f(key)."""


class TrainingParams(_Strict):
    """One schedule for every arm: equal forward tokens, equal steps."""

    adapter_rank: Positive
    steps: Positive
    docs_per_step: Positive
    """Clean documents a step; every arm forwards twice as many (see arms)."""
    facts_per_step: Positive
    """Closed-book items a step, doubled in the same way."""
    lr: float = Field(gt=0)
    controller_lr_scale: float = Field(gt=0)
    curve_steps: tuple[int, ...] = Field(min_length=2)
    """Steps whose adapter is kept for the learning curve; the last one must be `steps`."""


class SepParams(_Strict):
    """Weights of the scramble-equivariant objective."""

    kl_weight: float = Field(ge=0)
    """Weight of KL(stopgrad p(.|x) || S^-1 p(.|S x))."""
    vicreg_weight: float = Field(ge=0)
    """Weight of VICReg on the middle layer, behind a fixed random projection."""
    projection: Positive
    """Features of that projection (not trained, so parity in trainable parameters holds)."""


class ScrambleParams(_Strict):
    """All of it."""

    corpus: CorpusParams
    training: TrainingParams
    sep: SepParams
