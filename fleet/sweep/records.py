"""What a sweep is made of, as plain records that pickle. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SWEEP_ONLY = "sweep_only"
"""Fact in the ledger that tells a run of sweeps from a launch: the command that goes on with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One setting of one arm at one rung."""

    arm: str
    number: int
    """Number of the setting within its arm; 0 is the mission file's own."""
    rung: int
    settings: Mapping[str, Any]
    """Path -> value; see missions.sweep_spec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """What came of a trial: a row of the ledger, found again by its key."""

    key: str
    """Of everything that decides the score: equal keys, equal scores."""
    mission: str
    arm: str
    number: int
    rung: int
    settings: Mapping[str, Any]
    seed_scores: Mapping[int, float]
    """Sweep seed -> mean of the metric over the dev items; empty where the trial failed."""
    cost: Mapping[str, float]
    """Size of what was trained, by figure of ArmCost."""
    error: str
    """Why the trial failed; empty where it did not."""
    traceback: str
    cpu_s: float
    wall_s: float

    @property
    def score(self) -> float | None:
        """Mean over the sweep seeds; None where the trial failed."""
        values = self.seed_scores.values()
        return sum(values) / len(values) if values else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmChoice:
    """The settings of one arm that a sweep settled on, and what that took."""

    arm: str
    number: int
    settings: Mapping[str, Any]
    score: float
    file_score: float
    """Of the mission file's own settings, at the highest rung that they reached."""
    trials: int
    """Settings tried."""
    evaluations: int
    """Trials run, every rung counted."""
    refused: int
    """Trials that could not be chosen: they failed, or changed the size of the arm."""
    cpu_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOutcome:
    """What a mission's sweep came to."""

    mission: str
    choices: tuple[ArmChoice, ...]
    rows: tuple[TrialRow, ...]
    """In the order of arm, rung and number."""
    refusals: Mapping[str, str]
    """Key of a trial that could not be chosen -> why."""
