"""The canary's decisions at their limits."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bem.online.guard import Action, CanaryConfig, CanaryReport, decide

CONFIG = CanaryConfig(promote_ratio=0.95, rollback_ratio=0.85, kl_cap=0.1)


@pytest.mark.parametrize(
    ("score", "kl", "action"),
    [
        (0.80, 0.0, "promote"),
        (0.76, 0.1, "promote"),
        (0.80, 0.2, "hold"),
        (0.70, 0.0, "hold"),
        (0.68, 0.0, "hold"),
        (0.67, 0.0, "rollback"),
        (0.0, 9.0, "rollback"),
    ],
)
def test_decisions_are_relative_to_the_start_score(score: float, kl: float, action: Action) -> None:
    assert decide(CanaryReport(score=score, kl=kl), 0.8, CONFIG) == action


def test_a_start_score_of_zero_guards_nothing() -> None:
    assert decide(CanaryReport(score=0.0, kl=0.0), 0.0, CONFIG) == "hold"


def test_ratios_must_be_ordered() -> None:
    with pytest.raises(ValidationError, match="must not exceed promote_ratio"):
        CanaryConfig(promote_ratio=0.5, rollback_ratio=0.9)
