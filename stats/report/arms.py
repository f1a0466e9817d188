"""Means of all arms with intervals, also of arms that no gate names. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stats.errors import StatsError
from stats.gates.base import is_fraction
from stats.scores import ScoreTable, arm_grid
from stats.twoway import two_way
from stats.verdict import MissionVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmMean:
    """Mean of one metric of one arm."""

    mean: float
    low: float | None
    """None where there are too few seeds or nothing varies."""
    high: float | None
    num_seeds: int
    num_examples: int
    scale: str


def arm_means(scores: ScoreTable, level: float = 0.95) -> dict[str, dict[str, ArmMean | None]]:
    """Metric -> arm -> mean; None where the arm's grid has holes or the metric is not scored."""
    found: dict[str, dict[str, ArmMean | None]] = {}
    present = set(
        scores.frame[["metric", "arm"]].drop_duplicates().itertuples(index=False, name=None)
    )
    for metric in scores.metrics:
        found[metric] = {
            arm: _mean(scores, metric, arm, level) if (metric, arm) in present else None
            for arm in scores.arms
        }
    return found


def metric_order(verdict: MissionVerdict, metrics: Sequence[str]) -> list[str]:
    """Metrics of the gates first, in the gates' order, then the others by name."""
    wanted: list[str] = []
    for gate in sorted(verdict.gates, key=lambda gate: (not gate.primary, not gate.required)):
        levels = gate.details.get("level_means", {})
        wanted += [gate.metric, *levels]
    known = [metric for metric in dict.fromkeys(wanted) if metric in metrics]
    return known + sorted(set(metrics) - set(known))


def _mean(scores: ScoreTable, metric: str, arm: str, level: float) -> ArmMean | None:
    try:
        grid = arm_grid(scores, metric, arm)
    except StatsError:
        return None
    low: float | None = None
    high: float | None = None
    if min(grid.values_SN.shape) >= 2:
        analysis = two_way(grid.values_SN, grid.weights_N)
        if not analysis.degenerate:
            low, high = analysis.interval(level)
    return ArmMean(
        mean=float(grid.cell_values_SE.mean()),
        low=low,
        high=high,
        num_seeds=len(grid.seeds),
        num_examples=len(grid.example_ids),
        scale="fraction" if is_fraction(grid.values_SN) else "raw",
    )
