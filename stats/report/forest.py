"""Forest plot: one panel a mission, one row a comparison, seed estimates behind each interval.

The thick line is the interval that decided (two-way t, or an exact bound), the thin line below
it the calibrated bootstrap interval, the small ticks the single seeds, the dashed marks the
margins with an arrow to the passing side. Filled markers are decided, open ones are not. Each
panel has its own axis: missions measure different things. The figures stand beside the rows, so
the plot can be read without its axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stats.report.tables import NONE, figure, interval_text, level_text, unit
from stats.report.theme import (
    DECISION_COLOURS,
    INK,
    MUTED,
    PAPER,
    RULE,
    VERDICT_COLOURS,
    shorten,
    style,
)
from stats.result import GateResult
from stats.verdict import MissionVerdict

COMPARING = ("superiority", "non_inferiority", "contrast", "time_to_event", "equivalence", "slope")
Standing = Literal["PROMOTE", "REJECT", "INCONCLUSIVE", "INVALID", "WITHHELD", "STOPPED"]
UNDECIDED: tuple[Standing, ...] = ("WITHHELD", "INVALID", "STOPPED")
"""Standings under which no gate may look like a success."""
VERDICT_WORDS: dict[Standing, str] = {
    "PROMOTE": "promoted",
    "REJECT": "not supported",
    "INCONCLUSIVE": "inconclusive",
    "INVALID": "invalid",
    "WITHHELD": "withheld",
    "STOPPED": "stopped for futility, interim figures",
}
_GATE_WORDS: dict[Standing, str] = {
    "WITHHELD": "withheld",
    "INVALID": "invalid",
    "STOPPED": "interim",
}
_DECISION_WORDS = {
    "PASS": "passes",
    "FAIL": "fails",
    "INCONCLUSIVE": "not decided",
    "INVALID": "invalid",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Sizes in inches of one form of the plot."""

    width: float
    label_width: float
    """0: labels stand above their rows."""
    figure_width: float
    """Room for estimate and interval beside the rows; 0: they stand above."""
    row_height: float
    font_size: float
    label_chars: int


WIDE = Layout(
    width=10.4, label_width=3.0, figure_width=2.05, row_height=0.46, font_size=9.0, label_chars=44
)
NARROW = Layout(
    width=4.0, label_width=0.0, figure_width=0.0, row_height=1.0, font_size=9.5, label_chars=50
)
_HEAD, _NEXT, _FOOT, _EMPTY, _MARGIN = 0.38, 0.08, 0.5, 0.62, 0.12


def standing(verdict: MissionVerdict) -> Standing:
    """The verdict, or STOPPED where the mission was ended early for futility."""
    stopped = verdict.stopped
    if verdict.verdict == "INCONCLUSIVE" and stopped is not None and stopped.kind == "futility":
        return "STOPPED"
    return verdict.verdict


def forest_rows(verdict: MissionVerdict) -> list[GateResult]:
    """Comparisons with an estimate, the primary one first."""
    rows = [
        gate
        for gate in verdict.gates
        if gate.estimate is not None and (gate.primary or gate.kind in COMPARING)
    ]
    return sorted(rows, key=lambda gate: (not gate.primary, not gate.required))


def panels(verdicts: Sequence[MissionVerdict]) -> list[tuple[MissionVerdict, list[GateResult]]]:
    """One panel for each mission and scale: what cannot share an axis does not.

    A mission without an estimate has one panel without rows.
    """
    found: list[tuple[MissionVerdict, list[GateResult]]] = []
    for verdict in verdicts:
        groups: dict[object, list[GateResult]] = {}
        for gate in forest_rows(verdict):
            # Figures in their own units (prompts, log ratios, per doubling) get an axis each.
            shared = gate.scale == "fraction" and gate.kind != "slope"
            key: object = "fraction" if shared else gate.gate
            groups.setdefault(key, []).append(gate)
        found += [(verdict, rows) for rows in groups.values()] or [(verdict, [])]
    return found


def forest_figure(verdicts: Sequence[MissionVerdict], layout: Layout = WIDE) -> Figure | None:
    """The plot; None where no mission has an estimate to show."""
    groups = panels(verdicts)
    if not any(rows for _, rows in groups):
        return None
    heads = [
        _HEAD if at == 0 or groups[at - 1][0].mission != verdict.mission else _NEXT
        for at, (verdict, _) in enumerate(groups)
    ]
    heights = [
        head + len(rows) * layout.row_height + _FOOT if rows else _EMPTY
        for head, (_, rows) in zip(heads, groups, strict=True)
    ]
    total = sum(heights)
    with style():
        figure_ = Figure(figsize=(layout.width, total))
        top = total
        shown: set[str] = set()
        for (verdict, rows), head, height in zip(groups, heads, heights, strict=True):
            left = max(layout.label_width, _MARGIN)
            right = layout.figure_width + _MARGIN
            if rows:
                axes = figure_.add_axes(
                    (
                        left / layout.width,
                        (top - height + _FOOT) / total,
                        (layout.width - left - right) / layout.width,
                        (height - head - _FOOT) / total,
                    )
                )
                _panel(axes, verdict, rows, layout)
            if verdict.mission not in shown:
                shown.add(verdict.mission)
                _heading(figure_, verdict, rows, (top - 0.19) / total, layout)
            if not rows:
                x = (layout.label_width or 0.02) / layout.width
                at = top - 0.19 if layout.label_width else top - 0.42
                text = "no comparison has an estimate"
                figure_.text(x, at / total, text, va="center", color=MUTED, size=layout.font_size)
            top -= height
    return figure_


def described(verdicts: Sequence[MissionVerdict]) -> str:
    """The plot in words, for those who cannot see it."""
    parts: list[str] = []
    for verdict in verdicts:
        rows = forest_rows(verdict)
        said = "; ".join(
            f"{_against(gate)} on {gate.metric} {values_text(gate)}, {decision_text(verdict, gate)}"
            for gate in rows
        )
        word = VERDICT_WORDS[standing(verdict)]
        parts.append(f"{verdict.mission}, {word}: {said or 'no comparison has an estimate'}.")
    return " ".join(parts)


def values_text(gate: GateResult) -> str:
    """`+2.10 [+0.90, +3.30] pp`."""
    text = f"{figure(gate.estimate, gate.scale, signed=True)}"
    if gate.interval is not None:
        text += f" {interval_text(gate.interval, gate.scale)}"
    return f"{text} {unit(gate)}".strip()


def margins_text(gate: GateResult) -> str:
    """The margins and the passing side."""
    side = {"above": "above", "below": "below"}.get(gate.passing_side, "")
    marks = ", ".join(figure(margin, gate.scale, signed=True) for margin in gate.margins)
    return f"{side} {marks} {unit(gate)}".strip() if marks else NONE


def decision_text(verdict: MissionVerdict, gate: GateResult) -> str:
    """What became of a gate; a pass in a mission without a verdict is not called one."""
    state = standing(verdict)
    if state in UNDECIDED and gate.decision != "INVALID":
        return _GATE_WORDS[state]
    return _DECISION_WORDS[gate.decision]


def _against(gate: GateResult) -> str:
    return f"{gate.treatment} vs {gate.versus}" if gate.versus else gate.treatment


def _heading(
    figure_: Figure, verdict: MissionVerdict, rows: list[GateResult], y: float, layout: Layout
) -> None:
    size = layout.font_size + 1.5
    figure_.text(0.02 / layout.width, y, verdict.mission, weight="bold", size=size, va="center")
    figure_.text(
        (0.1 + 0.16 * len(verdict.mission)) / layout.width,
        y,
        VERDICT_WORDS[standing(verdict)],
        weight="bold",
        size=size - 1.5,
        va="center",
        color=VERDICT_COLOURS[standing(verdict)],
    )
    if layout.figure_width and rows:
        figure_.text(
            1 - 0.02 / layout.width,
            y,
            f"estimate [{level_text(verdict.level)}]",
            size=8.5,
            ha="right",
            va="center",
            color=MUTED,
        )


def _panel(axes: Any, verdict: MissionVerdict, rows: list[GateResult], layout: Layout) -> None:
    factor = 100.0 if rows[0].scale == "fraction" else 1.0
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    low, high = _limits(rows, factor)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7 if layout.label_width else 5))
    if layout.label_width:
        axes.axvline(0.0, color=RULE, linewidth=1.0, zorder=0)
    for at, gate in enumerate(rows):
        _row(axes, at, gate, factor, standing(verdict), layout)
        _labels(axes, at, gate, verdict, layout)
    axes.set_xlabel(_axis_label(rows), labelpad=2, size=8.5)
    axes.tick_params(length=3, pad=2)


def _row(
    axes: Any, at: int, gate: GateResult, factor: float, state: Standing, layout: Layout
) -> None:
    assert gate.estimate is not None
    above = layout.label_width == 0
    y = at + (0.24 if above else 0.0)
    reach = 0.17 if above else 0.3
    # A gate that passes inside an invalid or withheld mission must not look like a success.
    void = state in UNDECIDED
    colour = VERDICT_COLOURS[state] if void else DECISION_COLOURS[gate.decision]
    if above:  # a line through the whole panel would run through the labels
        axes.plot([0, 0], [y - reach, y + reach], color=RULE, linewidth=1.0, zorder=0)
    for seed_estimate in gate.seed_estimates:
        x = seed_estimate * factor
        axes.plot([x, x], [y - reach, y + reach], color=MUTED, linewidth=1.3, alpha=0.5, zorder=1)
    for margin in gate.margins:
        _margin(axes, margin * factor, y, reach + 0.08, gate.passing_side)
    if gate.interval is not None:
        ends = [gate.interval.low * factor, gate.interval.high * factor]
        axes.plot(ends, [y, y], color=colour, linewidth=2.6, solid_capstyle="butt", zorder=3)
    if gate.bootstrap is not None:
        ends = [gate.bootstrap.low * factor, gate.bootstrap.high * factor]
        below = y + (0.14 if above else 0.23)
        axes.plot(ends, [below, below], color=colour, linewidth=1.0, alpha=0.8, zorder=2)
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
        clip_on=False,
    )


def _margin(axes: Any, x: float, y: float, half: float, passing_side: str) -> None:
    axes.plot([x, x], [y - half, y + half], color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    marker = {"above": ">", "below": "<"}.get(passing_side)
    if marker is not None:
        axes.plot([x], [y - half], marker=marker, markersize=4.0, color=INK, linestyle="none")


def _labels(axes: Any, at: int, gate: GateResult, verdict: MissionVerdict, layout: Layout) -> None:
    """Who against whom on what, and the figures, beside or above the row."""
    size = layout.font_size
    weight = "bold" if gate.primary else "normal"
    kept: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    who = shorten(_against(gate), layout.label_chars)
    state = standing(verdict)
    void = state in UNDECIDED
    colour = VERDICT_COLOURS[state] if void else DECISION_COLOURS[gate.decision]
    decided = decision_text(verdict, gate)
    if not layout.label_width:
        axes.text(0.0, at - 0.38, who, size=size, weight=weight, ha="left", **kept)
        metric = shorten(f"{gate.metric} · {values_text(gate)}", layout.label_chars + 4)
        axes.text(0.0, at - 0.16, metric, size=size - 0.5, color=MUTED, ha="left", **kept)
        axes.text(1.0, at - 0.38, decided, size=size - 0.5, color=colour, ha="right", **kept)
        return
    axes.text(-0.02, at - 0.17, who, size=size, weight=weight, ha="right", **kept)
    what = shorten(f"{gate.metric} · {gate.gate}", layout.label_chars)
    axes.text(-0.02, at + 0.2, what, size=size - 0.5, color=MUTED, ha="right", **kept)
    # The right column ends at the figure's edge, wherever the axes end.
    inner = layout.width - layout.label_width - layout.figure_width - _MARGIN
    edge = 1.0 + (layout.figure_width + _MARGIN - 0.02) / inner
    values = values_text(gate).removesuffix(" pp")
    axes.text(edge, at - 0.17, values, size=size, weight=weight, ha="right", **kept)
    axes.text(edge, at + 0.2, decided, size=size - 0.5, color=colour, ha="right", **kept)


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
    if rows[0].kind == "slope":
        unit_ = "percentage points" if rows[0].scale == "fraction" else rows[0].metric
        return f"{shorten(unit_, 40)} per doubling"
    if rows[0].scale == "fraction":
        return "percentage points"
    kind = {"equivalence": "log ratio", "time_to_event": "time gained"}
    return kind.get(rows[0].kind, shorten(rows[0].metric, 40))
