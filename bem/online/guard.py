"""The canary gate: what a suite of fixed prompts says about the live parameters.

`decide` is a pure function of the canary's figures: promote (the state becomes the last good
checkpoint), hold (keep learning, keep the old checkpoint) or roll back. It knows neither models nor
prompts; the score is exact match on fixed prompts under greedy decoding, hence deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Action = Literal["promote", "hold", "rollback"]


class CanaryConfig(BaseModel):
    """When a state may be promoted and when it must go back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=50, ge=1)
    """Prompts between two canary runs."""
    promote_ratio: float = Field(default=0.95, gt=0)
    """Least canary score, relative to the start adapter's, for a new good checkpoint."""
    rollback_ratio: float = Field(default=0.85, gt=0)
    """Below this relative score the last good checkpoint comes back."""
    kl_cap: float = Field(default=0.1, gt=0)
    """Largest mean KL(last good || live), nats per answer token, for a new good checkpoint."""

    @model_validator(mode="after")
    def _ordered(self) -> CanaryConfig:
        if self.rollback_ratio > self.promote_ratio:
            raise ValueError(
                f"rollback_ratio {self.rollback_ratio} must not exceed promote_ratio "
                f"{self.promote_ratio}"
            )
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryReport:
    """One run of the canary suite."""

    score: float
    """Exact match on the fixed prompts."""
    kl: float
    """Mean KL(last good || live) per answer token, in nats."""


def decide(report: CanaryReport, start_score: float, config: CanaryConfig) -> Action:
    """What to do after a canary run. A start that solved nothing can lose nothing: hold."""
    if start_score <= 0:
        return "hold"
    ratio = report.score / start_score
    if ratio < config.rollback_ratio:
        return "rollback"
    if ratio >= config.promote_ratio and report.kl <= config.kl_cap:
        return "promote"
    return "hold"
