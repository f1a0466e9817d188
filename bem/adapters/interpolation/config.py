"""Config of the interpolation BEM; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bem.interfaces import AdapterConfig


class InterpolationConfig(AdapterConfig):
    """dW = sum_k w_k(prompt) dW_k over trained static adapters."""

    kind: ClassVar[str] = "interpolation"

    experts: tuple[str, ...] = Field(min_length=1)
    """Names of static adapters on the host when this one is built; their factors are copied."""
    expert_ranks: tuple[int, ...]
    """Their ranks, in the same order."""
    weights: Literal["softmax", "free"] = "softmax"
    """A softmax over experts (equal at first), or free weights (0 at first)."""
    per_site: bool = False
    """One set of weights a site instead of one for the whole adapter."""
    controller_width: int = Field(default=16, ge=1)
    """Hidden units of the controller."""
    pool: Literal["attention", "mean", "last"] = "attention"
    """How the controller pools prompt positions."""
    feature_layer: int = Field(default=0, ge=0)
    """The controller reads the input of this decoder layer; layers before it are not adapted."""
    side_size: int = Field(default=0, ge=0)
    """Side signals (RoutingContext.side_BF) that the controller reads beside it."""

    @property
    def reads_side(self) -> bool:
        """Its controller does."""
        return True
