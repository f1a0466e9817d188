"""Words and figures that gate results share. Decides nothing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from stats.inference import MeanInference
from stats.ratios import RatioInference
from stats.scores import IntArray

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


def size(value: float, scale: Scale) -> str:
    """A distance, without a sign."""
    return f"{value * 100:.2f} pp" if scale == "fraction" else f"{value:.4g}"


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


def population(
    shape: tuple[int, int],
    sizes_N: IntArray | None,
    average: Literal["examples", "clusters"] = "examples",
) -> str:
    """What the mean runs over.

    Args:
        shape: seeds x units.
        sizes_N: test items in each cluster; None where every test item stands alone.
    """
    seeds, units = shape
    drawn = f"{seeds} x {units:,} drawn"
    if sizes_N is None:
        return f"over the populations of training seeds and test items; {drawn}"
    least, most = int(sizes_N.min()), int(sizes_N.max())
    if least == most:
        kind = f"clusters of {least} test items (each counts once)"
    else:
        spread = f"{least} to {most} test items, median {float(np.median(sizes_N)):g}"
        counts = (
            "each test item counts once, so a cluster counts by its size"
            if average == "examples"
            else "each cluster counts once, whatever its size"
        )
        kind = f"clusters of {spread} ({counts})"
    return f"over the populations of training seeds and {kind}; {drawn}"


def no_interval(inference: MeanInference, what: str) -> str:
    """Why there is no interval, where none could be had.

    Args:
        what: what would have to differ, such as "the two arms' difference".
    """
    if inference.analysis.components.residual > 0.0:
        return (
            f"zero variation: {what} has the same mean in every seed and in every test item "
            "although its cells differ, so no interval exists and nothing was tested"
        )
    return (
        f"zero variation: {what} is the same everywhere, so no interval exists and nothing was "
        "tested"
    )


def ratio_details(
    found: RatioInference, name: Literal["reduction", "relative_change"]
) -> dict[str, Any]:
    """The ratio of means with both its intervals, and the same as a change; None where unknown.

    Args:
        name: reduction is 1 - ratio, relative_change is ratio - 1.
    """
    sign = -1.0 if name == "reduction" else 1.0

    def change(ratio: float) -> float:
        return sign * (ratio - 1.0)

    interval, bootstrap = found.interval, found.bootstrap
    details: dict[str, Any] = {
        name: None if found.ratio is None else change(found.ratio),
        f"{name}_interval": None
        if interval is None
        else sorted((change(interval.low), change(interval.high))),
        "ratio": found.ratio,
        "ratio_interval": None if interval is None else [interval.low, interval.high],
        "ratio_bca": None if bootstrap is None else [bootstrap.low, bootstrap.high],
        "ratio_bca_error": None
        if bootstrap is None
        else [bootstrap.low_error, bootstrap.high_error],
    }
    if found.why:
        details["ratio_missing"] = found.why
    return details
