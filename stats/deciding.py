"""The sizes at which an undecided comparison would be decided, with the words for them.

Knows variance components and distances from a margin, no gate and no scores.
"""

from __future__ import annotations

from stats.power import cheapest, fewest_seeds, fewest_units
from stats.result import WouldDecide
from stats.twoway import VarianceComponents


def deciding_sizes(
    components: VarianceComponents,
    num_seeds: int,
    num_units: int,
    *,
    assumed: float,
    margin: float,
    alpha: float,
    power: float,
) -> WouldDecide:
    """Sizes at which `margin` would be cleared one-sidedly at `alpha` if `assumed` were true."""
    distance = abs(assumed - margin)
    if distance == 0.0:
        return no_size(assumed, "no size decides: the assumed value is the margin itself")
    seeds = fewest_seeds(components, num_units, distance, alpha=alpha, power=power)
    units = fewest_units(components, num_seeds, distance, alpha=alpha, power=power)
    best = cheapest(components, distance, alpha=alpha, power=power)
    parts = [
        f"{seeds} seeds x {num_units:,}"
        if seeds is not None
        else f"no number of seeds at {num_units:,} examples",
        f"{num_seeds} seeds x {units:,}"
        if units is not None
        else f"no number of examples at {num_seeds} seeds",
    ]
    if best is not None:
        parts.append(f"cheapest {best.seeds} x {best.units:,}")
    return WouldDecide(
        assumed=assumed,
        seeds_at_these_examples=seeds,
        examples_at_these_seeds=units,
        cheapest_seeds=best.seeds if best else None,
        cheapest_examples=best.units if best else None,
        text="; ".join(parts),
    )


def no_size(assumed: float, text: str) -> WouldDecide:
    """The answer where no size decides, or none is known."""
    return WouldDecide(
        assumed=assumed,
        seeds_at_these_examples=None,
        examples_at_these_seeds=None,
        cheapest_seeds=None,
        cheapest_examples=None,
        text=text,
    )
