"""Config of the banked BEM; it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from bem.routing.prompt import PromptCodeConfig


class BankedConfig(PromptCodeConfig):
    """dW = (alpha / rank) * sum over the top-k experts of g_k(context) up_k down_k."""

    kind: ClassVar[str] = "banked"

    rank: int = Field(default=2, ge=1)
    """Rank of each expert at every site; 1 makes the bank one of single directions."""
    alpha: float = Field(default=4.0, gt=0)
    """Numerator of the scale alpha / rank."""
    experts: int = Field(default=4, ge=2)
    """Experts in the bank of every site."""
    top_k: int = Field(default=2, ge=1)
    """Experts that act."""
    router: Literal["sequence", "token"] = "sequence"
    """One choice a sequence, from its prompt; or one a token, at each site from its own input."""
    gate: Literal["renormalised", "straight_through"] = "renormalised"
    """A softmax over the k chosen; or 1/k each with the gradient of the full softmax."""
    per_site: bool = False
    """With router sequence: one choice a site instead of one for the whole adapter."""
    uncertainty: bool = False
    """Whether the choice fades to the even mixture of all experts where the router is unsure."""
    balance_weight: float = Field(default=0.01, ge=0)
    """Of the balance loss (Switch); like the other weights a mean over sites."""
    importance_weight: float = Field(default=0.0, ge=0)
    """Of CV(importance)^2."""
    entropy_weight: float = Field(default=0.0, ge=0)
    """Of the mean entropy of the router: decided choices."""
    utilisation_weight: float = Field(default=0.0, ge=0)
    """Of the gap between log K and the entropy of the mean choice: an even bank."""

    @property
    def reads_side(self) -> bool:
        """The router of a sequence does."""
        return self.router == "sequence"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, more than the {self.experts} experts")
        if self.top_k == 1 and self.gate == "renormalised":
            raise ValueError("a renormalised top-1 gate is constant; use gate 'straight_through'")
        if self.uncertainty and self.router != "sequence":
            raise ValueError(f"uncertainty needs router 'sequence', not '{self.router}'")
        return self
