"""Geometry of the page's figures: where a dot, a line, a bar stands. Pure; the templates draw.

Coordinates are SVG user units, rounded, so that an unchanged figure is the same text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.monitor import wording

MAX_POINTS = 160
"""A line is thinned to at most so many points; its extremes stay."""
CURVE_WIDTH, CURVE_HEIGHT = 640, 200
FOREST_WIDTH = 400
STATES = ("DONE", "RUNNING", "LEASED", "STALE", "PREEMPTED", "FAILED", "CANCELLED", "PLANNED")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One part of a progress bar."""

    state: str
    count: int
    x: float
    width: float


def progress(counts: Mapping[str, int], width: float = 200.0) -> tuple[Bar, ...]:
    """Parts of a bar in the order in which states follow each other."""
    total = sum(counts.values())
    bars, x = [], 0.0
    for state in STATES:
        count = counts.get(state, 0)
        if count:
            part = width * count / total
            bars.append(Bar(state=state, count=count, x=round(x, 2), width=round(part, 2)))
            x += part
    return tuple(bars)


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestRow:
    """One gate: estimate and interval on a strip of its own."""

    label: str
    note: str
    decision: str
    text: str
    estimate: float | None
    """x of the dot."""
    low: float | None
    high: float | None
    margins: tuple[tuple[float, str], ...]
    """x and text of each margin."""
    zero: float | None
    """x of no difference, where it is on the strip."""
    primary: bool
    required: bool


def forest(gates: Sequence[Mapping[str, Any]], width: float = FOREST_WIDTH) -> list[ForestRow]:
    """Rows of a forest plot, each on its own scale: gates of one mission differ in unit."""
    return [_forest_row(gate, width) for gate in gates]


def _forest_row(gate: Mapping[str, Any], width: float) -> ForestRow:
    interval = gate.get("interval") or {}
    low, high = interval.get("low", gate.get("low")), interval.get("high", gate.get("high"))
    estimate, scale = gate.get("estimate"), str(gate.get("scale", "raw"))
    kind = str(gate.get("kind", ""))
    margins = [float(m) for m in gate.get("margins") or () if m is not None]
    known = [float(v) for v in (low, high, estimate, *margins) if v is not None]
    signed = kind != "bound"
    if signed and known:
        known.append(0.0)
    left, right = (min(known), max(known)) if known else (0.0, 1.0)
    room = (right - left) * 0.08 or max(abs(left), 1.0) * 0.1
    left, right = left - room, right + room

    def x(value: float | None) -> float | None:
        return None if value is None else round((value - left) / (right - left) * width, 1)

    unit = wording.unit(scale, kind)
    text = wording.number(estimate, scale, signed=signed)
    if low is not None:
        text = f"{text} {wording.span(low, high, scale, signed=signed)}"
    against = f"{gate['treatment']} against {gate['versus']}" if gate.get("versus") else ""
    return ForestRow(
        label=str(gate["gate"]),
        note=f"{gate['metric']}{f', {against}' if against else ''}",
        decision=str(gate.get("decision") or ""),
        text=f"{text}{unit}" if estimate is not None else str(gate.get("note") or "none"),
        estimate=x(estimate),
        low=x(low),
        high=x(high),
        margins=tuple(
            (x(m) or 0.0, f"{wording.number(m, scale, signed=signed)}{unit}") for m in margins
        ),
        zero=x(0.0) if signed and known else None,
        primary=bool(gate.get("primary")),
        required=bool(gate.get("required", True)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One run's curve."""

    run: str
    arm: str
    series: int
    """Number of the arm, for its colour: 1 to 6."""
    points: str
    """Of an SVG polyline."""
    last: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Lines on common axes."""

    lines: tuple[Line, ...]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_y: bool
    """Logarithmic: positive values over more than two decades."""
    shared: int
    """Curves that another one covers to the point: arms of a seed may share their training."""
    arms: tuple[tuple[str, int, float], ...]
    """Arm, number of its colour, mean of its runs' last values."""


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    arms: Mapping[str, str],
    order: Sequence[str],
) -> Curves | None:
    """Geometry of the curves of some runs; None where nothing was logged.

    Args:
        series: run -> [(step, value)].
        arms: run -> its arm.
        order: arms in their planned order: colours follow it.
    """
    kept = {run: thin(points) for run, points in series.items() if points}
    if not kept:
        return None
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    x_range, y_range = (min(xs), max(xs)), (min(ys), max(ys))
    log_y = y_range[0] > 0 and y_range[1] / y_range[0] > 100
    low, top = (math.log(y) if log_y else y for y in y_range)
    wide, high = (x_range[1] - x_range[0]) or 1.0, (top - low) or 1.0
    lines: list[Line] = []
    drawn: set[str] = set()
    last: dict[str, list[float]] = {}
    for run, points in kept.items():
        text = " ".join(
            f"{(x - x_range[0]) / wide * CURVE_WIDTH:.1f},"
            f"{(1 - ((math.log(y) if log_y else y) - low) / high) * CURVE_HEIGHT:.1f}"
            for x, y in points
        )
        last.setdefault(arms[run], []).append(points[-1][1])
        if text in drawn:
            continue
        drawn.add(text)
        lines.append(
            Line(
                run=run,
                arm=arms[run],
                series=order.index(arms[run]) % 6 + 1,
                points=text,
                last=points[-1][1],
            )
        )
    return Curves(
        lines=tuple(lines),
        x_range=x_range,
        y_range=y_range,
        log_y=log_y,
        shared=len(kept) - len(lines),
        arms=tuple(
            (arm, order.index(arm) % 6 + 1, sum(last[arm]) / len(last[arm]))
            for arm in order
            if arm in last
        ),
    )


def thin(
    points: Sequence[tuple[float, float]], most: int = MAX_POINTS
) -> list[tuple[float, float]]:
    """At most about `most` points: of each stretch its smallest and largest, the ends kept."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2
    kept = [points[0]]
    for part in range(stretches):
        begin, end = part * len(points) // stretches, (part + 1) * len(points) // stretches
        stretch = points[begin:end]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    kept.append(points[-1])
    return kept
