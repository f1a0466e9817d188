"""What one checkpoint an arm can show: a difference between these checkpoints, not of the methods.

With one seed the variance between seeds cannot be estimated, so nothing follows for the method:
gates answer INCONCLUSIVE. What can be said is how the two checkpoints would differ on new items
of the same kind. The interval here says that and names it so; it never feeds a gate. (Read as a
claim about methods, an interval over examples alone covers 68-96 % instead of 95 %.)

Shapes: N units (examples, or clusters where they are declared).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from stats.errors import DegenerateDataError
from stats.gates.base import is_fraction
from stats.plain import from_plain, to_plain
from stats.scores import PairedGrid, ScoreTable, paired_grid

STATEMENT = "these checkpoints only, over new test items; not a claim about the method"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInterval:
    """Mean paired difference of two checkpoints with its interval over test items."""

    metric: str
    treatment: str
    control: str
    seed: int
    estimate: float
    """Treatment minus control."""
    low: float
    high: float
    level: float
    p_value: float
    """Two-sided, of no difference between these two checkpoints."""
    df: float
    num_examples: int
    num_units: int
    scale: Literal["fraction", "raw"] = "raw"
    """fraction: scores lie in [0, 1], so the estimate reads in percentage points."""
    statement: str = STATEMENT

    def __str__(self) -> str:
        factor, form, tail = (
            (100.0, "+.2f", " pp") if self.scale == "fraction" else (1.0, "+.4g", "")
        )
        low, high = self.low * factor, self.high * factor
        return (
            f"{self.estimate * factor:{form}}{tail}, {self.level:.0%} [{low:{form}}, {high:{form}}]"
            f"{tail}: {self.statement}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CheckpointInterval:
        return from_plain(cls, data)


def checkpoint_interval(
    scores: ScoreTable, metric: str, treatment: str, control: str, *, level: float = 0.95
) -> CheckpointInterval | None:
    """Paired t over test items (or clusters) of two single checkpoints; None where nothing varies.

    Clusters of unequal size enter as a ratio estimator: every test item counts once.

    Raises:
        MissingCellsError: the two arms were not scored on the same items.
        DegenerateDataError: more than one seed (compare the methods then), or one unit.
    """
    grid = paired_grid(scores, metric, treatment, control)
    if len(grid.seeds) != 1:
        raise DegenerateDataError(
            f"{len(grid.seeds)} seeds: compare the methods, not one checkpoint of each."
        )
    return _paired_t(grid, level)


def _paired_t(grid: PairedGrid, level: float) -> CheckpointInterval | None:
    values_N = grid.difference_SN[0]
    num_units = len(values_N)
    if num_units < 2:
        raise DegenerateDataError(f"{num_units} unit: an interval over items needs at least 2.")
    weights_N = grid.unit_sizes_N / grid.unit_sizes_N.sum()
    estimate = float(weights_N @ values_N)
    squares = float(np.sum((weights_N * (values_N - estimate)) ** 2))
    error = math.sqrt(squares * num_units / (num_units - 1))
    if error <= 1e-12 * float(np.abs(values_N).max(initial=0.0)):
        return None
    df = float(num_units - 1)
    half = float(stdtrit(df, 0.5 + level / 2)) * error
    return CheckpointInterval(
        metric=grid.metric,
        treatment=grid.treatment,
        control=grid.control,
        seed=grid.seeds[0],
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        level=level,
        p_value=2.0 * float(stdtr(df, -abs(estimate) / error)),
        df=df,
        num_examples=len(grid.example_ids),
        num_units=num_units,
        scale="fraction" if is_fraction(grid.treatment_SN, grid.control_SN) else "raw",
    )
