"""Variance bars: which part of an estimate's uncertainty comes from seeds, items and the rest.

The parts are contributions to the variance of the mean, seed / S, example / N and residual /
(S N), so the longest bar says what to buy more of. One bar a gate, the primary one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stats.report.theme import MUTED, PAPER, SERIES, shorten, style
from stats.result import GateResult
from stats.verdict import MissionVerdict

PARTS = ("seeds", "test items", "residual")
_HEAD, _FOOT, _ROW, _GAP = 0.42, 0.06, 0.3, 0.14


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Shares of the variance of one estimate; they add to 1."""

    mission: str
    gate: str
    seed: float
    example: float
    residual: float
    primary: bool = False

    @property
    def parts(self) -> tuple[float, float, float]:
        """In the order of `PARTS`."""
        return self.seed, self.example, self.residual


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
    return Shares(
        mission=mission,
        gate=gate.gate,
        seed=seed,
        example=example,
        residual=residual,
        primary=gate.primary,
    )


def all_shares(verdicts: Sequence[MissionVerdict]) -> list[Shares]:
    """Shares of every gate that has them; a mission's primary gate first."""
    found: list[Shares] = []
    for verdict in verdicts:
        gates = sorted(verdict.gates, key=lambda gate: (not gate.primary, not gate.required))
        found += [bar for gate in gates if (bar := shares(verdict.mission, gate)) is not None]
    return found


def described(verdicts: Sequence[MissionVerdict]) -> str:
    """The bars in words."""
    return " ".join(
        f"{bar.mission} {bar.gate}: "
        + ", ".join(f"{name} {part:.0%}" for name, part in zip(PARTS, bar.parts, strict=True))
        + "."
        for bar in all_shares(verdicts)
    )


def components_figure(verdicts: Sequence[MissionVerdict], width: float = 10.4) -> Figure | None:
    """One bar a gate, grouped by mission; None where there is nothing to show.

    Args:
        width: inches; below 6 the names stand above their bars.
    """
    bars = all_shares(verdicts)
    if not bars:
        return None
    narrow = width < 6
    row = _ROW * 1.75 if narrow else _ROW
    missions = list(dict.fromkeys(bar.mission for bar in bars))
    height = _HEAD + _FOOT + row * len(bars) + _GAP * (len(missions) - 1)
    left = 0.02 if narrow else 3.0
    with style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        _legend(axes, 0.02)
        y = _HEAD
        before = bars[0].mission
        for bar in bars:
            if bar.mission != before:
                y += _GAP
                before = bar.mission
            _name(axes, bar, y, left, narrow=narrow)
            middle = y + row * (0.68 if narrow else 0.5)
            _bar(axes, bar, middle, left, width - left - 0.06)
            y += row
    return figure


def _name(axes: Any, bar: Shares, y: float, left: float, *, narrow: bool) -> None:
    weight = "bold" if bar.primary else "normal"
    text = f"{bar.mission}  {shorten(bar.gate, 40)}"
    if narrow:
        axes.text(left, y + 0.13, text, size=9.0, va="center", weight=weight)
    else:
        axes.text(left - 0.12, y + _ROW / 2, text, size=9.0, va="center", ha="right", weight=weight)


def _bar(axes: Any, bar: Shares, middle: float, left: float, width: float) -> None:
    half = 0.1
    start = left
    for part, colour in zip(bar.parts, SERIES, strict=False):
        size = part * width
        axes.add_patch(Rectangle((start, middle - half), size, 2 * half, color=colour, linewidth=0))
        if size > 0.34:
            axes.text(
                start + size / 2,
                middle,
                f"{part:.0%}",
                ha="center",
                va="center_baseline",
                color=PAPER,
                size=8.5,
            )
        start += size


def _legend(axes: Any, left: float) -> None:
    for at, (name, colour) in enumerate(zip(PARTS, SERIES, strict=False)):
        x = left + at * 1.1
        axes.add_patch(Rectangle((x, 0.1), 0.13, 0.13, color=colour, linewidth=0))
        axes.text(x + 0.2, 0.17, name, color=MUTED, size=9.0, va="center_baseline")
