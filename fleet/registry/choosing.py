"""Which seed's artifact is served: the seed with the median of a figure recorded in training. Pure.

Never the best seed, and never by test scores: the best of five seeds on test is an optimistic
estimate of itself, and the verdict speaks of the mean seed. The median needs no direction, so the
rule is the same for losses and accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fleet.registry.records import SeedChoice

MEDIAN = "the seed with the lower median of the figure; equal values in order of seed"
FIRST = "the first seed: no run of the arm recorded the figure"


def choose_seed(
    seeds: Sequence[int], figure: str, values: Mapping[int, float | None]
) -> SeedChoice:
    """The seed whose artifact is served.

    Args:
        seeds: those that the verdict rests on, in their planned order.
        figure: name of the figure.
        values: seed -> its value; seeds without one cannot be the median.
    """
    known = sorted(
        (float(value), seed)
        for seed, value in values.items()
        if seed in seeds and value is not None and math.isfinite(value)
    )
    shown = {str(seed): values.get(seed) for seed in seeds}
    if not known:
        return SeedChoice(rule=FIRST, figure=figure, values=shown, seed=seeds[0])
    seed = known[(len(known) - 1) // 2][1]
    return SeedChoice(rule=MEDIAN, figure=figure, values=shown, seed=seed)
