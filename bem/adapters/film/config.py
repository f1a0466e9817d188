"""Config of residual FiLM (V4); it knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bem.routing.prompt import PromptCodeConfig


class FilmConfig(PromptCodeConfig):
    """y' = y + (alpha / rank) * (gamma * y + beta), [gamma; beta] = up c."""

    kind: ClassVar[str] = "film"

    where: Literal["residual", "targets"] = "residual"
    """Of the targets, those that write to the residual stream; or all of them."""
    rank: int = Field(default=8, ge=1)
    """Size of the code at every site, from which scale and shift are mixed."""
    alpha: float = Field(default=8.0, gt=0)
    """Numerator of the scale alpha / rank."""
