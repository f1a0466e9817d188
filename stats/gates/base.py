"""What every gate kind shares: the common settings, and the context it is evaluated in.

Knows no single gate kind. The classes name what a kind reads: `GateBase` anything, `TwoArmGate`
a treatment and a control, `MeanGate` a mean over seeds and examples, `PairedGate` both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from stats.bootstrap import CrossedResamples
from stats.costs import ArmCost
from stats.errors import GateError
from stats.gates.wording import Scale, population
from stats.result import Decision, GateResult
from stats.scores import ArmGrid, FloatArray, PairedGrid, ScoreTable, arm_grid, paired_grid


class GateBase(BaseModel, ABC):
    """Settings common to all gates. Subclasses add `kind` and their own margins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    """Name of the gate, unique within a mission."""
    kind: str
    """Which rule decides; every kind is a file of this folder."""
    metric: str = Field(min_length=1)
    """Metric to read; a slice stands behind an @, as in em@128k."""
    treatment: str = Field(min_length=1)
    """Arm that the claim is about."""
    required: bool = True
    """A mission passes when all required gates pass; the others are only reported."""
    primary: bool = False
    """The one gate that the mission is about."""
    note: str = ""
    """Why the gate is there or why its margin is what it is, for the report."""

    @classmethod
    def kind_name(cls) -> str:
        return str(get_args(cls.model_fields["kind"].annotation)[0])

    @abstractmethod
    def quantity(self) -> str:
        """What the gate estimates, in words, without the population that it runs over."""

    @abstractmethod
    def rule(self, scale: Scale = "raw", alpha: float = 0.025) -> str:
        """When the gate passes, in words, with its margins.

        Args:
            alpha: one-sided level of a single gate.
        """


class TwoArmGate(GateBase):
    """A gate that compares the treatment with one control."""

    versus: str = Field(min_length=1)
    """Control arm."""


class MeanGate(GateBase):
    """A gate about a mean over seeds and test items."""

    average: Literal["examples", "clusters"] = "examples"
    """What counts once where clusters differ in size: every test item, or every cluster."""

    def weights(self, grid: ArmGrid | PairedGrid) -> FloatArray | None:
        """Weights of the grid's units in the mean; None: all equal."""
        return grid.weights_N if self.average == "examples" else None

    def estimand(self, grid: ArmGrid | PairedGrid) -> str:
        """The quantity and the population that it runs over."""
        shape = (len(grid.seeds), len(grid.unit_ids))
        sizes = grid.unit_sizes_N if grid.clustered else None
        return f"{self.quantity()}, {population(shape, sizes, self.average)}"


class PairedGate(MeanGate, TwoArmGate):
    """A gate about the mean of something paired by seed and test item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateContext:
    """What a gate may look at: scores, costs, and how uncertainty is to be computed."""

    scores: ScoreTable
    resampler: CrossedResamples
    seeds: tuple[int, ...] | None = None
    """Seeds that the plan fixed; None takes those that are there."""
    costs: Mapping[str, ArmCost] = field(default_factory=dict)
    level: float = 0.95
    """Level of the two-sided intervals; one-sided tests run at (1 - level) / 2."""
    power: float = 0.8

    @property
    def alpha(self) -> float:
        """One-sided level of a single gate."""
        return (1.0 - self.level) / 2.0

    def paired(self, metric: str, treatment: str, control: str) -> PairedGrid:
        return paired_grid(self.scores, metric, treatment, control, seeds=self.seeds)

    def arm(self, metric: str, arm: str) -> ArmGrid:
        return arm_grid(self.scores, metric, arm, seeds=self.seeds)

    def cost(self, arm: str) -> ArmCost:
        if arm not in self.costs:
            raise GateError(f"No cost of arm {arm!r}; known: {sorted(self.costs)}.")
        return self.costs[arm]


def identity(config: GateBase) -> dict[str, Any]:
    """Fields of a result that come straight from the configuration."""
    return {
        "gate": config.id,
        "kind": config.kind,
        "metric": config.metric,
        "treatment": config.treatment,
        "versus": getattr(config, "versus", ""),
        "required": config.required,
        "primary": config.primary,
        "note": config.note,
    }


def undecided(
    config: GateBase, decision: Decision, reason: str, *, alpha: float = 0.025
) -> GateResult:
    """The result of a gate that could not be computed: what it asks, and why there is no answer."""
    return GateResult(
        **identity(config),
        decision=decision,
        reason=reason,
        criterion=config.rule(alpha=alpha),
        estimand=f"{config.quantity()}; not estimated",
    )


def is_binary(*grids: FloatArray) -> bool:
    """True where every value is 0 or 1."""
    return all(bool(((grid == 0.0) | (grid == 1.0)).all()) for grid in grids)


def is_fraction(*grids: FloatArray) -> bool:
    """True where every value lies in [0, 1], so that a difference reads in percentage points."""
    return all(bool(((grid >= 0.0) & (grid <= 1.0)).all()) for grid in grids)
