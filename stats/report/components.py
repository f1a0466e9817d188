"""Variance bars: which part of an estimate's uncertainty comes from seeds, items and the rest.

The parts are contributions to the variance of the mean, seed / S, example / N and residual /
(S N), so the longest bar says what to buy more of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from stats.report.theme import MUTED, SERIES, style
from stats.result import GateResult
from stats.verdict import MissionVerdict

PARTS = ("seeds", "test items", "residual")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Shares of the variance of one estimate; they add to 1."""

    mission: str
    gate: str
    seed: float
    example: float
    residual: float


def shares(mission: str, gate: GateResult) -> Shares | None:
    """Shares of one gate; None where nothing varied or nothing was measured."""
    if gate.components is None or not gate.seeds or not gate.num_units:
        return None
    num_seeds, num_units = len(gate.seeds), gate.num_units
    parts = (
        gate.components.seed / num_seeds,
        gate.components.example / num_units,
        gate.components.residual / (num_seeds * num_units),
    )
    total = sum(parts)
    if total == 0:
        return None
    seed, example, residual = (part / total for part in parts)
    return Shares(mission=mission, gate=gate.gate, seed=seed, example=example, residual=residual)


def components_figure(verdicts: Sequence[MissionVerdict], width: float = 10.4) -> Figure | None:
    """One bar a mission, of its primary gate; None where there is nothing to show."""
    found = [shares(verdict.mission, verdict.primary) for verdict in verdicts]
    bars = [bar for bar in found if bar is not None]
    if not bars:
        return None
    with style():
        height = 0.62 + 0.36 * len(bars)
        figure = Figure(figsize=(width, height))
        left = 0.34
        axes = figure.add_axes(
            (left / width, 0.3 / height, 1 - (left + 0.1) / width, 1 - 0.62 / height)
        )
        for at, bar in enumerate(bars):
            start = 0.0
            for part, colour in zip((bar.seed, bar.example, bar.residual), SERIES, strict=False):
                axes.barh(at, part, left=start, color=colour, height=0.56, alpha=0.85)
                if part > 0.07:
                    axes.text(
                        start + part / 2,
                        at,
                        f"{part:.0%}",
                        ha="center",
                        va="center",
                        color="#040404",
                        size=8.0,
                    )
                start += part
        axes.set_yticks(range(len(bars)), [bar.mission for bar in bars], size=10, weight="bold")
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        for at, (name, colour) in enumerate(zip(PARTS, SERIES, strict=False)):
            figure.text(
                (left + 0.05 + at * 1.05) / width,
                1 - 0.16 / height,
                "■",
                color=colour,
                size=9,
                va="center",
            )
            figure.text(
                (left + 0.22 + at * 1.05) / width,
                1 - 0.16 / height,
                name,
                color=MUTED,
                size=8.5,
                va="center",
            )
    return figure
