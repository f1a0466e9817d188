"""Forest plot: one panel a mission, one row a comparison, seed estimates behind each interval.

The thick line is the interval that decided (two-way t, or an exact bound), the thin line below
it the calibrated bootstrap interval, the small ticks the single seeds, the dashed marks the
margins with an arrow to the passing side. Filled markers are decided, open ones are not. Each
panel has its own axis: missions measure different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from stats.report.theme import (
    DECISION_COLOURS,
    INK,
    MUTED,
    PAPER,
    RULE,
    VERDICT_COLOURS,
    style,
)
from stats.result import GateResult
from stats.verdict import MissionVerdict

COMPARING = ("superiority", "non_inferiority", "contrast", "time_to_event", "equivalence")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Sizes in inches of one form of the plot."""

    width: float
    label_width: float
    """0: labels stand above their rows."""
    row_height: float
    font_size: float


WIDE = Layout(width=10.4, label_width=3.3, row_height=0.42, font_size=9.0)
NARROW = Layout(width=4.0, label_width=0.0, row_height=0.78, font_size=9.5)


def forest_rows(verdict: MissionVerdict) -> list[GateResult]:
    """Comparisons with an estimate, the primary one first."""
    rows = [
        gate
        for gate in verdict.gates
        if gate.estimate is not None and (gate.primary or gate.kind in COMPARING)
    ]
    return sorted(rows, key=lambda gate: (not gate.primary, not gate.required))


def panels(verdicts: Sequence[MissionVerdict]) -> list[tuple[MissionVerdict, list[GateResult]]]:
    """One panel for each mission and scale: what cannot share an axis does not."""
    found: list[tuple[MissionVerdict, list[GateResult]]] = []
    for verdict in verdicts:
        groups: dict[object, list[GateResult]] = {}
        for gate in forest_rows(verdict):
            # Figures in their own units (prompts, log ratios) get an axis each.
            key: object = "fraction" if gate.scale == "fraction" else gate.gate
            groups.setdefault(key, []).append(gate)
        found += [(verdict, rows) for rows in groups.values()]
    return found


def forest_figure(verdicts: Sequence[MissionVerdict], layout: Layout = WIDE) -> Figure | None:
    """The plot; None where no mission has an estimate to show."""
    groups = panels(verdicts)
    if not groups:
        return None
    head, foot = 0.34, 0.46
    heights = [head + len(rows) * layout.row_height + foot for _, rows in groups]
    total = sum(heights)
    with style():
        figure = Figure(figsize=(layout.width, total))
        top = total
        margin = 0.12
        shown: set[str] = set()
        for (verdict, rows), height in zip(groups, heights, strict=True):
            bottom = top - height
            left = max(layout.label_width, margin)
            axes = figure.add_axes(
                (
                    left / layout.width,
                    (bottom + foot) / total,
                    (layout.width - left - margin) / layout.width,
                    (height - head - foot) / total,
                )
            )
            _panel(axes, verdict, rows, layout)
            if verdict.mission not in shown:
                shown.add(verdict.mission)
                _heading(figure, verdict, 0.02 / layout.width, (top - 0.17) / total, layout)
            top = bottom
    return figure


def _heading(figure: Figure, verdict: MissionVerdict, x: float, y: float, layout: Layout) -> None:
    size = layout.font_size + 1.5
    figure.text(x, y, verdict.mission, weight="bold", size=size, va="center")
    figure.text(
        x + 0.26 / layout.width,
        y,
        verdict.verdict,
        weight="bold",
        size=size - 2.5,
        va="center",
        color=VERDICT_COLOURS[verdict.verdict],
    )


def _panel(axes: Any, verdict: MissionVerdict, rows: list[GateResult], layout: Layout) -> None:
    factor = 100.0 if rows[0].scale == "fraction" else 1.0
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    low, high = _limits(rows, factor)
    axes.set_xlim(low, high)
    axes.axvline(0.0, color=RULE, linewidth=1.0, zorder=0)
    for at, gate in enumerate(rows):
        _row(axes, at, gate, factor, verdict.verdict, layout)
    axes.set_xlabel(_axis_label(rows), labelpad=2, size=8.0)
    axes.tick_params(length=3, pad=2)


def _row(axes: Any, at: int, gate: GateResult, factor: float, verdict: str, layout: Layout) -> None:
    assert gate.estimate is not None
    above = layout.label_width == 0
    y = at + (0.2 if above else 0.0)
    # A gate that passes inside an invalid or withheld mission must not look like a success.
    void = verdict in ("WITHHELD", "INVALID")
    colour = VERDICT_COLOURS[verdict] if void else DECISION_COLOURS[gate.decision]
    for seed_estimate in gate.seed_estimates:
        x = seed_estimate * factor
        axes.plot([x, x], [y - 0.2, y + 0.2], color=MUTED, linewidth=1.1, alpha=0.38, zorder=1)
    for margin in gate.margins:
        _margin(axes, margin * factor, y, 0.24 if above else 0.36, gate.passing_side)
    if gate.interval is not None:
        ends = [gate.interval.low * factor, gate.interval.high * factor]
        axes.plot(ends, [y, y], color=colour, linewidth=2.6, solid_capstyle="butt", zorder=3)
    if gate.bootstrap is not None:
        ends = [gate.bootstrap.low * factor, gate.bootstrap.high * factor]
        axes.plot(ends, [y + 0.27, y + 0.27], color=colour, linewidth=0.9, alpha=0.75, zorder=2)
    is_open = gate.decision == "INCONCLUSIVE" or void
    axes.plot(
        [gate.estimate * factor],
        [y],
        marker="X" if gate.decision == "INVALID" else "o",
        markersize=7.5 if gate.primary else 6.0,
        markerfacecolor=PAPER if is_open else colour,
        markeredgecolor=colour,
        markeredgewidth=1.8,
        linestyle="none",
        zorder=4,
    )
    _labels(axes, y, gate, layout)


def _margin(axes: Any, x: float, y: float, half: float, passing_side: str) -> None:
    axes.plot([x, x], [y - half, y + half], color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    marker = {"above": ">", "below": "<"}.get(passing_side)
    if marker is not None:
        axes.plot([x], [y - half], marker=marker, markersize=3.6, color=INK, linestyle="none")


def _labels(axes: Any, y: float, gate: GateResult, layout: Layout) -> None:
    against = f"{gate.treatment} vs {gate.versus}" if gate.versus else gate.treatment
    weight = "bold" if gate.primary else "normal"
    size = layout.font_size
    transform = axes.get_yaxis_transform()
    if layout.label_width:
        axes.text(
            -0.02,
            y - 0.14,
            against,
            transform=transform,
            ha="right",
            va="center",
            weight=weight,
            size=size,
        )
        axes.text(
            -0.02,
            y + 0.22,
            f"{gate.metric} · {gate.gate}",
            transform=transform,
            ha="right",
            va="center",
            color=MUTED,
            size=size - 1.5,
        )
        return
    axes.text(
        0.0,
        y - 0.46,
        f"{against} · {gate.metric}",
        transform=transform,
        ha="left",
        va="center",
        weight=weight,
        size=size - 1.0,
    )


def _limits(rows: Sequence[GateResult], factor: float) -> tuple[float, float]:
    values = [0.0]
    for gate in rows:
        assert gate.estimate is not None
        values += [gate.estimate, *gate.margins]
        for interval in (gate.interval, gate.bootstrap):
            if interval is not None:
                values += [interval.low, interval.high]
        values += gate.seed_estimates
    low, high = min(values) * factor, max(values) * factor
    pad = 0.04 * (high - low) or 1.0
    return low - pad, high + pad


def _axis_label(rows: Sequence[GateResult]) -> str:
    if rows[0].scale == "fraction":
        return "percentage points"
    return {"equivalence": "log ratio", "time_to_event": "time gained"}.get(
        rows[0].kind, rows[0].metric
    )
