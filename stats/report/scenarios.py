"""Scenarios of a mission: the slices in which its primary metric was scored, a mean a seed each.

Metrics are named `name[_slice][@level]`: `em_RF` is a slice of `em`, `acc_heavy@128k` one of
`acc@128k`. A mission's scenarios are the slices of its primary metric at every level; without
slices the primary metric itself is the only one. Decides nothing.

Shapes: K scenarios, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stats.errors import StatsError
from stats.gates.base import is_fraction
from stats.result import GateResult
from stats.scores import FloatArray, ScoreTable, arm_grid
from stats.verdict import MissionVerdict


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scenarios:
    """What the arms of one mission scored in its scenarios; more is better."""

    mission: str
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: Mapping[str, FloatArray]
    """Arm -> means, scenarios x seeds; treatment and primary control first."""
    treatment: str
    control: str
    turned: bool
    """True where less is better, so that 1 - score is shown."""


def metric_parts(metric: str) -> tuple[str, str]:
    """(name, level): `acc_heavy@128k` is (`acc_heavy`, `128k`); no level is an empty one."""
    name, _, level = metric.partition("@")
    return name, level


def slice_metrics(primary: str, metrics: Sequence[str]) -> list[str]:
    """The scenarios of a primary metric among all metrics."""
    stem, level = metric_parts(primary)
    slices = [
        metric
        for metric in metrics
        if metric_parts(metric)[0].startswith(f"{stem}_")
        and bool(metric_parts(metric)[1]) == bool(level)
    ]
    return slices or [primary]


def scenarios_of(verdict: MissionVerdict, scores: ScoreTable) -> Scenarios | str:
    """The scenarios, or a reason why there are none."""
    gate = verdict.primary
    if not gate.versus:
        return "its primary gate compares no arms"
    if gate.metric not in scores.metrics:
        return f"{gate.metric} was not scored"
    names = slice_metrics(gate.metric, scores.metrics)
    wanted = [gate.treatment, gate.versus]
    wanted += sorted(set(scores.arms) - set(wanted))
    arms: dict[str, FloatArray] = {}
    seeds: tuple[int, ...] = ()
    for arm in wanted:
        try:
            grids = [arm_grid(scores, name, arm) for name in names]
        except StatsError:
            if arm in (gate.treatment, gate.versus):
                return f"the scores of {arm} are not complete"
            continue
        if not is_fraction(*(grid.values_SN for grid in grids)):
            return f"{gate.metric} is not a share between 0 and 1"
        own = grids[0].seeds
        if any(grid.seeds != own for grid in grids) or (seeds and own != seeds):
            return "the arms were scored under different seeds"
        seeds = own
        arms[arm] = np.array([grid.values_SN.mean(axis=1) for grid in grids])
    turned = less_is_better(gate)
    if turned:
        arms = {arm: 1.0 - means_KS for arm, means_KS in arms.items()}
    return Scenarios(
        mission=verdict.mission,
        names=tuple(names),
        seeds=seeds,
        arms=arms,
        treatment=gate.treatment,
        control=gate.versus,
        turned=turned,
    )


def less_is_better(gate: GateResult) -> bool:
    """Whether a falling score is what the gate wants."""
    if gate.passing_side == "below":
        return True
    return gate.kind == "superiority" and "control minus treatment" in gate.estimand
