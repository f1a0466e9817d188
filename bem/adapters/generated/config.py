"""Config of the generated BEM; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bem.interfaces import AdapterConfig


class GeneratedConfig(AdapterConfig):
    """dW = (alpha / rank) * up diag(c) down with c read off the context."""

    kind: ClassVar[str] = "generated"

    rank: int = Field(default=8, ge=1)
    """Rank of the delta at every site, and size of its code."""
    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / rank."""
    code: Literal["sequence", "token"] = "sequence"
    """One code a sequence, from its prompt; or one a token, from the site's own input."""
    controller_width: int = Field(default=16, ge=1)
    """Hidden units of the sequence controller."""
    code_spread: float = Field(default=6.0, ge=0)
    """How far codes of different prompts lie apart at the start (bound of the head weights, times
    1 / sqrt(controller_width)); small values learn slowly where contexts conflict."""
    pool: Literal["attention", "mean", "last"] = "attention"
    """How the sequence controller pools prompt positions."""
    feature_layer: int = Field(default=0, ge=0)
    """The sequence controller reads the input of this decoder layer; layers before it are not
    adapted. 0 reads the embeddings."""
    side_size: int = Field(default=0, ge=0)
    """Side signals (RoutingContext.side_BF) that the sequence controller reads beside it."""
