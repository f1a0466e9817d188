"""Words and figures that gate results share. Decides nothing."""

from __future__ import annotations

from typing import Literal

from stats.inference import MeanInference

Scale = Literal["fraction", "raw"]


def show(value: float, scale: Scale, *, unit: str = "pp") -> str:
    """A figure as a reader wants it: `+1.5 pp` for fractions, four digits otherwise.

    Args:
        unit: `pp` for differences (signed), `%` for levels (unsigned).
    """
    sign = "+" if unit == "pp" and value != 0 else ""
    if scale == "fraction":
        return f"{round(value * 100, 4):{sign}g} {unit}"
    return f"{value:{sign}.4g}"


def show_interval(inference: MeanInference, scale: Scale, *, unit: str = "pp") -> str:
    """`+2.10 pp [+0.90, +3.30]`."""
    sign = "+" if unit == "pp" else ""
    factor, form, tail = (
        (100.0, f"{sign}.2f", f" {unit}") if scale == "fraction" else (1.0, f"{sign}.4g", "")
    )
    text = f"{inference.estimate * factor:{form}}{tail}"
    if inference.interval is None:
        return text
    low, high = inference.interval.low * factor, inference.interval.high * factor
    return f"{text} [{low:{form}}, {high:{form}}]"


def population(shape: tuple[int, ...], clustered: bool) -> str:
    """What the mean runs over; `shape` is seeds x units."""
    seeds, units = shape
    kind = "clusters of test items (each counts once)" if clustered else "test items"
    return f"over the populations of training seeds and {kind}; {seeds} x {units:,} drawn"
