"""Looks at which a mission may be promoted before its planned number of seeds, if its file asks.

    looks: {at_seeds: [3, 4, 5]}

At a look all required gates are tested at the look's nominal level (`t_process`), with the
two-way t (one arm's rate: with its score test), but with at most (seeds - 1) degrees of freedom:
from two or three seeds the two-way analysis cannot tell a small variance between seeds from a
lucky one, and would reject up to 27 times too often in the far tail. At the planned size the plain
test decides, at the last look's level. Early looks promote or do nothing; nothing is rejected
early. Measured one-sided error of the whole plan with the two-way t, looks at 2-5 or 3-5 of 5
seeds, nominal 2.5 %: 0.4 to 2.4 %.

Knows results of gates, not how they were computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import stdtr

from stats.errors import StatsError
from stats.inference import SCORE
from stats.planning.rules import rule_of
from stats.proportion import score_p_value
from stats.result import GateResult
from stats.sequential.spending import obrien_fleming
from stats.sequential.t_process import overall_p, t_levels
from stats.twoway import Side

MAX_SEEDS = 50


class LooksConfig(BaseModel):
    """When a mission may be promoted early."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_seeds: tuple[int, ...] = Field(min_length=1)
    """Numbers of complete seeds at which the gates are tested; the last is the planned number."""
    spending: Literal["obrien_fleming"] = "obrien_fleming"
    """How the level is spent over the looks."""

    @model_validator(mode="after")
    def _increasing(self) -> LooksConfig:
        looks = list(self.at_seeds)
        if looks != sorted(set(looks)) or looks[0] < 2 or looks[-1] > MAX_SEEDS:
            raise ValueError(
                f"at_seeds must increase from 2 at least to {MAX_SEEDS} at most, got {looks}; one "
                "seed cannot be tested"
            )
        return self

    def check_plan(self, num_seeds: int) -> None:
        """Raises ValueError unless the last look is at the planned number of seeds."""
        if self.at_seeds[-1] != num_seeds:
            raise ValueError(
                f"looks.at_seeds ends at {self.at_seeds[-1]}, but {num_seeds} seeds are planned; "
                "the last look is the planned number"
            )

    def nominal(self, seeds: int, alpha: float) -> float:
        """One-sided level of the look at this number of seeds."""
        if seeds not in self.at_seeds:
            raise StatsError(f"No look at {seeds} seeds; looks: {list(self.at_seeds)}.")
        return _levels(self.at_seeds, alpha)[self.at_seeds.index(seeds)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LookStanding:
    """What one look says about a mission."""

    seeds: int
    """Complete seeds at this look."""
    at_seeds: tuple[int, ...]
    nominal: float
    """One-sided level of this look."""
    nominal_p: float | None
    """Largest one-sided p-value of the required gates; None where one could not be tested."""
    overall_p: float | None
    """The same over all looks so far (stage-wise ordering): what enters the family."""
    crossed: bool
    """Whether every required gate passes at this look's level."""


def standing(
    config: LooksConfig, gates: Sequence[GateResult], seeds: int, *, alpha: float = 0.025
) -> LookStanding:
    """Where the gates of a mission stand at a look.

    Args:
        gates: evaluated on `seeds` seeds at level 1 - 2 * `nominal`.
        alpha: one-sided level of the whole plan.
    """
    nominal = config.nominal(seeds, alpha)
    final = seeds == config.at_seeds[-1]
    required = [gate for gate in gates if gate.required]
    p_values = [_p_value(gate, None if final else seeds - 1) for gate in required]
    tested = [p for p in p_values if p is not None]
    possible = bool(tested) and not any(gate.decision == "INVALID" for gate in required)
    nominal_p = max(tested) if possible else None
    passing = all(gate.decision == "PASS" for gate in required)
    levels = _levels(config.at_seeds, alpha)
    look = config.at_seeds.index(seeds)
    return LookStanding(
        seeds=seeds,
        at_seeds=config.at_seeds,
        nominal=nominal,
        nominal_p=nominal_p,
        overall_p=(
            overall_p(config.at_seeds, levels, look, nominal_p) if nominal_p is not None else None
        ),
        crossed=passing and nominal_p is not None and nominal_p < nominal,
    )


def _p_value(gate: GateResult, max_df: int | None) -> float | None:
    """The gate's one-sided p-value, its degrees of freedom bounded."""
    rule = rule_of(gate)
    if gate.p_value is None or max_df is None:
        return gate.p_value
    if rule is None or gate.estimate is None or not gate.standard_error or gate.df is None:
        # An exact bound (nothing varied) speaks of examples only: no ground for an early end.
        return 1.0
    df = min(gate.df, float(max_df))
    sides: list[tuple[float | None, Side]] = [(rule.lower, "greater"), (rule.upper, "less")]
    scored = gate.interval is not None and gate.interval.method == SCORE
    bounded = [gate.p_value]
    for margin, side in sides:
        if margin is not None and scored:
            bounded.append(score_p_value(gate.estimate, gate.standard_error, df, margin, side))
        elif margin is not None:
            t = (gate.estimate - margin) / gate.standard_error
            bounded.append(float(stdtr(df, -t if side == "greater" else t)))
    return max(bounded)


@cache
def _levels(at_seeds: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    return tuple(t_levels(at_seeds, lambda share: obrien_fleming(share, alpha)))
