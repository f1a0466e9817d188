"""Power against the number of seeds, and the detectable effect of other sizes, a gate each.

From the variance components of the run itself. The effect of a curve is fixed by the gate's own
margins, never by the estimate: power at the observed effect says nothing that the p-value has
not said (Hoenig and Heisey 2001). A gate whose margins name no size is asked for the effect that
the present design finds with 80 % power; its curve goes through that point by construction. All
figures are expectations from the components, so they differ a little from a gate's own MDE, which
rests on the standard error that this run happened to have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from stats.power import expected_error, mde, power_of
from stats.report.tables import distance_text
from stats.report.theme import INK, MUTED, RULE, SERIES, shorten, style
from stats.result import GateResult
from stats.verdict import MissionVerdict

SEEDS = tuple(range(2, 21))
FACTOR = 5
"""How many times the present items the second curve has."""
WANTED = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class GateCurve:
    """Power of one gate over numbers of seeds."""

    mission: str
    gate: str
    effect: float
    """Distance from the margin that is to be found."""
    from_margins: bool
    """False: the gate names no size, `effect` is what the present design finds."""
    seeds: int
    units: int
    now: float
    """Power of the present design."""
    same_units: tuple[float, ...]
    """One figure for each of `SEEDS`, at the present number of units."""
    more_units: tuple[float, ...]
    """The same at `FACTOR` times the units."""
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Detectable:
    """Smallest distances from the margin found with 80 % power at four sizes."""

    mission: str
    gate: GateResult
    now: float
    more_units: float
    twice_seeds: float
    both: float
    asked: float | None
    """Distance that the gate's margins ask for, where they do."""


def power_curve(mission: str, gate: GateResult) -> GateCurve | None:
    """The curve of one gate; None where nothing varied or nothing was measured."""
    if not _varies(gate) or gate.components is None or gate.mde is None:
        return None
    seeds, units = len(gate.seeds), gate.num_units
    asked = asked_distance(gate)
    effect = mde(gate.components, seeds, units) if asked is None else asked

    def power(num_seeds: int, num_units: int) -> float:
        assert gate.components is not None
        error, df = expected_error(gate.components, num_seeds, num_units)
        return power_of(effect, error, df)

    size = distance_text(effect, gate)
    text = f"to find {size}, the gate's own size" if asked is not None else f"to find {size}"
    return GateCurve(
        mission=mission,
        gate=gate.gate,
        effect=effect,
        from_margins=asked is not None,
        seeds=seeds,
        units=units,
        now=power(seeds, units),
        same_units=tuple(power(count, units) for count in SEEDS),
        more_units=tuple(power(count, FACTOR * units) for count in SEEDS),
        words=text,
    )


def asked_distance(gate: GateResult) -> float | None:
    """Distance between the margin and the least effect that the gate's margins speak of.

    Superiority with a point margin: from the lower margin to the point margin. Non-inferiority
    and equivalence: from the margin to no difference at all. None elsewhere.
    """
    if gate.kind == "superiority" and len(gate.margins) == 2:
        return gate.margins[1] - gate.margins[0]
    if gate.kind in ("non_inferiority", "equivalence") and gate.margins and gate.margins[0] != 0:
        return abs(gate.margins[0])
    return None


def detectable_table(verdicts: Sequence[MissionVerdict]) -> list[Detectable]:
    """Detectable effects of every gate with an interval, the primary one first."""
    rows: list[Detectable] = []
    for verdict in verdicts:
        gates = sorted(verdict.gates, key=lambda gate: (not gate.primary, not gate.required))
        for gate in gates:
            if not _varies(gate) or gate.mde is None or gate.components is None:
                continue
            if gate.details.get("decide_on") == "point":
                continue
            seeds, units = len(gate.seeds), gate.num_units
            rows.append(
                Detectable(
                    mission=verdict.mission,
                    gate=gate,
                    now=mde(gate.components, seeds, units),
                    more_units=mde(gate.components, seeds, FACTOR * units),
                    twice_seeds=mde(gate.components, 2 * seeds, units),
                    both=mde(gate.components, 2 * seeds, FACTOR * units),
                    asked=asked_distance(gate),
                )
            )
    return rows


def described(curves: Sequence[GateCurve]) -> str:
    """The curves in words."""
    return " ".join(
        f"{curve.mission} {curve.gate}, {curve.words}: power {curve.now:.0%} with {curve.seeds} "
        f"seeds; 80 % from {_from(curve.same_units)} at these items, from "
        f"{_from(curve.more_units)} at {FACTOR} times the items."
        for curve in curves
    )


def power_curves(verdicts: Sequence[MissionVerdict]) -> list[GateCurve]:
    """Curves of the primary gates."""
    found = [power_curve(verdict.mission, verdict.primary) for verdict in verdicts]
    return [curve for curve in found if curve is not None]


def power_figure(verdicts: Sequence[MissionVerdict], columns: int = 3) -> Figure | None:
    """One small panel a primary gate; None where there is nothing to show."""
    curves = power_curves(verdicts)
    if not curves:
        return None
    columns = min(columns, max(len(curves), 2)) if columns > 1 else 1
    rows = math.ceil(len(curves) / columns)
    width = 10.4 if columns > 1 else 4.0
    cell_w, cell_h, top = width / columns, 2.35, 0.3
    height = rows * cell_h + top
    with style():
        figure_ = Figure(figsize=(width, height))
        _legend(figure_, width, height)
        for at, curve in enumerate(curves):
            x = (at % columns) * cell_w
            y = height - top - (at // columns + 1) * cell_h
            axes = figure_.add_axes(
                (
                    (x + 0.46) / width,
                    (y + 0.46) / height,
                    (cell_w - 0.62) / width,
                    (cell_h - 0.98) / height,
                )
            )
            _panel(axes, curve)
    return figure_


def _panel(axes: Any, curve: GateCurve) -> None:
    axes.plot(SEEDS, curve.more_units, color=SERIES[0], linewidth=1.6, linestyle=(0, (4, 2)))
    axes.plot(SEEDS, curve.same_units, color=SERIES[0], linewidth=2.0)
    axes.axhline(WANTED, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.plot([curve.seeds], [curve.now], marker="o", color=INK, markersize=6.0, clip_on=False)
    axes.text(
        curve.seeds + 0.6,
        min(curve.now, 0.92) - 0.02,
        f"now: {curve.now:.0%}",
        size=8.5,
        va="top",
        ha="left",
    )
    axes.set_xlim(2, max(20, curve.seeds))
    axes.set_ylim(0, 1.02)
    axes.set_xticks([2, 5, 10, 15, 20])
    axes.set_yticks([0, 0.5, WANTED, 1.0], ["0", "50 %", "80 %", "100 %"])
    axes.grid(axis="y", color=RULE)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelsize=8.5)
    axes.set_xlabel(f"seeds, at {curve.units:,} units each", size=8.5, labelpad=2)
    kept: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "va": "bottom"}
    axes.text(-0.1, 1.19, f"{curve.mission}  {shorten(curve.gate, 30)}", weight="bold", **kept)
    axes.text(-0.1, 1.05, curve.words, size=8.5, color=MUTED, **kept)


def _legend(figure_: Figure, width: float, height: float) -> None:
    y = 1 - 0.13 / height
    at = 0.04
    marks = (("-", "present items"), ((0, (4, 2)), f"{FACTOR} times the items"))
    for line, name in marks:
        axes = figure_.add_axes((at / width, y - 0.001, 0.36 / width, 0.002))
        axes.axis("off")
        axes.plot([0, 1], [0, 0], color=SERIES[0], linewidth=2.0, linestyle=line, clip_on=False)
        figure_.text((at + 0.45) / width, y, name, size=8.5, color=MUTED, va="center")
        at += 1.6
    figure_.text(at / width, y, "●", size=8.0, color=INK, va="center")
    figure_.text((at + 0.16) / width, y, "this run", size=8.5, color=MUTED, va="center")


def _varies(gate: GateResult) -> bool:
    parts = gate.components
    if parts is None or len(gate.seeds) < 2 or gate.num_units < 2:
        return False
    return parts.seed + parts.example + parts.residual > 0


def _from(powers: Sequence[float]) -> str:
    enough = [seeds for seeds, power in zip(SEEDS, powers, strict=True) if power >= WANTED]
    return f"{enough[0]} seeds" if enough else f"more than {SEEDS[-1]} seeds"
