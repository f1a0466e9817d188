"""Words and figures that gate results share. Decides nothing."""

from __future__ import annotations

from typing import Literal

from stats.inference import MeanInference

Scale = Literal["fraction", "raw"]


def show(value: float, scale: Scale, *, signed: bool = True) -> str:
    """A figure as a reader wants it: `+1.5 pp` for fractions, three digits otherwise."""
    sign = "+" if signed else ""
    if scale == "fraction":
        return f"{value * 100:{sign}.2f} pp"
    return f"{value:{sign}.4g}"


def show_interval(inference: MeanInference, scale: Scale) -> str:
    """`+2.10 pp [+0.90, +3.30]`."""
    text = show(inference.estimate, scale)
    if inference.interval is None:
        return text
    low, high = inference.interval.low, inference.interval.high
    if scale == "fraction":
        return f"{text} [{low * 100:+.2f}, {high * 100:+.2f}]"
    return f"{text} [{low:+.4g}, {high:+.4g}]"


def population(seeds: int, units: int, clustered: bool) -> str:
    """What the mean runs over."""
    kind = "clusters of test items (each counts once)" if clustered else "test items"
    return f"over the populations of training seeds and {kind}; {seeds} x {units:,} drawn"
