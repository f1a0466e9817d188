"""Power of the two-way t before money is spent: detectable effects and sizes that would decide.

Works from variance components, of a pilot or of the run itself. Knows no gates and no scores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import nctdtr, stdtrit

from stats.errors import DegenerateDataError
from stats.noncentral import noncentrality
from stats.twoway import VarianceComponents, variance_of_mean

MAX_SEEDS = 100
MAX_UNITS = 1_000_000
RUN_COST_IN_EXAMPLES = 1000
"""Without a measured cost: a training run costs as much as evaluating this many examples."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A number of seeds and units with what it can detect."""

    seeds: int
    units: int
    mde: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowerCurve:
    """Power against the number of seeds, one line a number of units."""

    effect: float
    """True distance from the margin."""
    seeds_K: npt.NDArray[np.int64]
    units_L: npt.NDArray[np.int64]
    power_LK: FloatArray


def expected_error(
    components: VarianceComponents, num_seeds: int, num_units: int
) -> tuple[float, float]:
    """Standard error and degrees of freedom that a grid of this size is expected to have."""
    variance, df = variance_of_mean(
        components.residual + num_units * components.seed,
        components.residual + num_seeds * components.example,
        components.residual,
        num_seeds,
        num_units,
    )
    return math.sqrt(variance), df


def power_of(effect: float, standard_error: float, df: float, *, alpha: float = 0.025) -> float:
    """Probability that a one-sided t-test at `alpha` finds a true `effect` (noncentral t)."""
    critical = float(stdtrit(df, 1.0 - alpha))
    # Far beyond the critical value the power is 1 and the distribution function is NaN.
    shift = min(effect / standard_error, 8.0 * critical)
    return 1.0 - float(nctdtr(df, shift, critical))


def detectable(
    standard_error: float, df: float, *, alpha: float = 0.025, power: float = 0.8
) -> float:
    """Smallest true effect that a one-sided t-test at `alpha` finds with this power."""
    if standard_error <= 0:
        raise DegenerateDataError("A standard error of zero has no detectable effect.")
    critical = float(stdtrit(df, 1.0 - alpha))
    return noncentrality(critical, df, 1.0 - power) * standard_error


def mde(
    components: VarianceComponents,
    num_seeds: int,
    num_units: int,
    *,
    alpha: float = 0.025,
    power: float = 0.8,
) -> float:
    """Minimum detectable effect of a planned grid."""
    standard_error, df = expected_error(components, num_seeds, num_units)
    return detectable(standard_error, df, alpha=alpha, power=power)


def fewest_seeds(
    components: VarianceComponents,
    num_units: int,
    effect: float,
    *,
    alpha: float = 0.025,
    power: float = 0.8,
) -> int | None:
    """Fewest seeds that detect `effect` with these units; None beyond `MAX_SEEDS`."""
    return _smallest(
        lambda seeds: _finds(components, seeds, num_units, effect, alpha, power), MAX_SEEDS
    )


def fewest_units(
    components: VarianceComponents,
    num_seeds: int,
    effect: float,
    *,
    alpha: float = 0.025,
    power: float = 0.8,
) -> int | None:
    """Fewest units that detect `effect` with these seeds; None beyond `MAX_UNITS`."""
    return _smallest(
        lambda units: _finds(components, num_seeds, units, effect, alpha, power), MAX_UNITS
    )


def power_curve(
    components: VarianceComponents,
    effect: float,
    *,
    seeds: Sequence[int],
    units: Sequence[int],
    alpha: float = 0.025,
) -> PowerCurve:
    """Power to find a true `effect`, for every number of seeds and units."""
    if not seeds or not units or min(seeds) < 2 or min(units) < 2:
        raise DegenerateDataError(f"A curve needs seeds and units >= 2, got {seeds}, {units}.")
    power_LK = [
        [
            power_of(effect, *expected_error(components, num_seeds, num_units), alpha=alpha)
            for num_seeds in seeds
        ]
        for num_units in units
    ]
    return PowerCurve(
        effect=effect,
        seeds_K=np.array(seeds, dtype=np.int64),
        units_L=np.array(units, dtype=np.int64),
        power_LK=np.array(power_LK, dtype=np.float64),
    )


def cheapest(
    components: VarianceComponents,
    effect: float,
    *,
    alpha: float = 0.025,
    power: float = 0.8,
    run_cost: float = RUN_COST_IN_EXAMPLES,
) -> Size | None:
    """Cheapest grid that detects `effect`.

    Args:
        run_cost: training one run costs as much as evaluating this many units, so that a grid
            costs S x (N + run_cost).
    """
    found = cheapest_grid(
        lambda seeds, units: _finds(components, seeds, units, effect, alpha, power),
        run_cost=run_cost,
    )
    if found is None:
        return None
    return Size(
        seeds=found[0], units=found[1], mde=mde(components, *found, alpha=alpha, power=power)
    )


def cheapest_grid(
    enough: Callable[[int, int], bool], *, run_cost: float = RUN_COST_IN_EXAMPLES
) -> tuple[int, int] | None:
    """(seeds, units) of least cost S x (N + run_cost) with `enough(seeds, units)`."""
    best: tuple[int, int] | None = None
    best_cost = math.inf
    for num_seeds in range(2, MAX_SEEDS + 1):
        if num_seeds * (2 + run_cost) >= best_cost:
            break
        # Only fewer units than this would be cheaper than what is known.
        limit = MAX_UNITS
        if best is not None:
            limit = max(2, min(limit, math.ceil(best_cost / num_seeds - run_cost) - 1))
        units = _smallest(functools.partial(enough, num_seeds), limit)
        if units is not None and num_seeds * (units + run_cost) < best_cost:
            best, best_cost = (num_seeds, units), num_seeds * (units + run_cost)
    return best


def _finds(
    components: VarianceComponents,
    num_seeds: int,
    num_units: int,
    effect: float,
    alpha: float,
    power: float,
) -> bool:
    """Whether the detectable effect is at most `effect`, without solving for it."""
    standard_error, df = expected_error(components, num_seeds, num_units)
    return power_of(effect, standard_error, df, alpha=alpha) >= power


def _smallest(enough: Callable[[int], bool], limit: int) -> int | None:
    """Smallest n in 2..limit with `enough(n)`, by doubling and bisection."""
    high = 2
    while not enough(high):
        if high >= limit:
            return None
        high = min(2 * high, limit)
    low = max(high // 2, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
