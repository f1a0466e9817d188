"""Config of the generated BEM; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from bem.interfaces import AdapterConfig


class GeneratedConfig(AdapterConfig):
    """dW = (alpha / rank) * up diag(c) down with c read off the context."""

    kind: ClassVar[str] = "generated"

    rank: int = Field(default=8, ge=1)
    """Rank of the delta at every site, and size of its code."""
    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / rank."""
    code: Literal["sequence", "chunk", "token", "hierarchy"] = "sequence"
    """One code a sequence, from its prompt; one a chunk, from the chunks before it; one a token,
    from the site's own input; or the product of the three."""
    controller_width: int = Field(default=16, ge=1)
    """Hidden units of the sequence controller, and of the chunk controller."""
    code_spread: float = Field(default=6.0, ge=0)
    """How far codes of different prompts lie apart at the start (bound of the head weights, times
    1 / sqrt(controller_width)); small values learn slowly where contexts conflict."""
    pool: Literal["attention", "mean", "last"] = "attention"
    """How the sequence controller pools prompt positions."""
    feature_layer: int = Field(default=0, ge=0)
    """The sequence and chunk controllers read the input of this decoder layer; layers before it
    are not adapted. 0 reads the embeddings."""
    side_size: int = Field(default=0, ge=0)
    """Side signals (RoutingContext.side_BF) that the sequence controller reads beside it."""
    chunk_size: int = Field(default=16, ge=1)
    """Tokens of a chunk; 1 with a decay is a moving average over tokens."""
    chunk_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average over chunk codes; 0: the last whole chunk alone."""
    uncertainty: bool = False
    """Whether the sequence code fades to 1, the static path, where the controller is unsure."""
    trust_radius: float | None = Field(default=None, gt=0)
    """Largest Frobenius norm of the delta of a site at strength 1; None: not held."""

    @property
    def reads_prompt(self) -> bool:
        """Whether there is a sequence code."""
        return self.code in ("sequence", "hierarchy")

    @property
    def reads_side(self) -> bool:
        """The sequence controller does."""
        return self.reads_prompt

    @property
    def streams(self) -> bool:
        """Whether there are chunk codes."""
        return self.code in ("chunk", "hierarchy")

    @property
    def gates_tokens(self) -> bool:
        """Whether there are token codes."""
        return self.code in ("token", "hierarchy")

    @model_validator(mode="after")
    def _fits(self) -> GeneratedConfig:
        if self.uncertainty and not self.reads_prompt:
            raise ValueError(f"uncertainty needs a sequence code; code is '{self.code}'")
        return self
