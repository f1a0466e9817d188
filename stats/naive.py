"""Slow references of the fast paths, written to be read. The tests compare against them.

Plain loops over the definitions, without closed forms, matrix products or lattices.

Shapes: B resamples, S seeds, N units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def mean_squares(values_SN: FloatArray) -> tuple[float, float, float]:
    """Mean squares of seeds, units and residual of a grid."""
    num_seeds, num_units = values_SN.shape
    mean = sum(float(v) for row in values_SN for v in row) / (num_seeds * num_units)
    seed = [sum(map(float, row)) / num_units for row in values_SN]
    unit = [sum(map(float, column)) / num_seeds for column in values_SN.T]
    square_seed = num_units * sum((m - mean) ** 2 for m in seed) / (num_seeds - 1)
    square_unit = num_seeds * sum((m - mean) ** 2 for m in unit) / (num_units - 1)
    residual = 0.0
    for s in range(num_seeds):
        for i in range(num_units):
            residual += (float(values_SN[s, i]) - seed[s] - unit[i] + mean) ** 2
    return square_seed, square_unit, residual / ((num_seeds - 1) * (num_units - 1))


def satterthwaite(values_SN: FloatArray) -> tuple[float, float]:
    """Standard error of the mean of a grid and its degrees of freedom."""
    num_seeds, num_units = values_SN.shape
    seed, unit, residual = mean_squares(values_SN)
    total = unit + max(seed - residual, 0.0)
    spread = (
        seed**2 / (num_seeds - 1)
        + unit**2 / (num_units - 1)
        + residual**2 / ((num_seeds - 1) * (num_units - 1))
    )
    df = total**2 / spread
    if num_seeds < 5 and seed > residual:
        df = min(df, (num_seeds - 1) * total / seed)
    return math.sqrt(total / (num_seeds * num_units)), max(df, 1.0)


def unit_replicates(values_N: FloatArray, draws_BN: npt.NDArray[np.int64]) -> FloatArray:
    """Mean of the units of each resample, given as drawn indices."""
    replicates = []
    for units in draws_BN:
        replicates.append(sum(float(values_N[i]) for i in units) / len(units))
    return np.array(replicates)


def every_resample(values_N: FloatArray) -> list[float]:
    """Mean of each of the N^N equally likely resamples, in order."""
    size = len(values_N)
    scores = [float(value) for value in values_N]
    return sorted(math.fsum(drawn) / size for drawn in itertools.product(scores, repeat=size))


def bca(
    replicates: Sequence[float],
    estimate: float,
    acceleration: float,
    level: float,
    tolerance: float = 0.0,
) -> tuple[float, float]:
    """BCa limits (Efron 1987); replicates within the tolerance of the estimate count half."""
    normal = NormalDist()
    ordered = sorted(float(value) for value in replicates)
    below = 0.0
    for value in ordered:
        if abs(value - estimate) <= tolerance:
            below += 0.5
        elif value < estimate:
            below += 1.0
    z0 = normal.inv_cdf(below / len(ordered))
    limits = []
    for tail in (0.5 - level / 2, 0.5 + level / 2):
        shifted = z0 + normal.inv_cdf(tail)
        place = normal.cdf(z0 + shifted / (1 - acceleration * shifted)) * (len(ordered) - 1)
        left = math.floor(place)
        right = min(left + 1, len(ordered) - 1)
        limits.append(ordered[left] + (place - left) * (ordered[right] - ordered[left]))
    return limits[0], limits[1]


def crossed_replicates(
    values_SN: FloatArray,
    seed_draws_BS: npt.NDArray[np.int64],
    unit_draws_BN: npt.NDArray[np.int64],
) -> FloatArray:
    """Mean of the grid on each resample of seeds and units, given as drawn indices."""
    replicates = []
    for seeds, units in zip(seed_draws_BS, unit_draws_BN, strict=True):
        total = 0.0
        for s in seeds:
            for i in units:
                total += float(values_SN[s, i])
        replicates.append(total / values_SN.size)
    return np.array(replicates)


def acceleration(values_SN: FloatArray) -> float:
    """BCa acceleration over both factors, by leaving out one seed or one unit at a time.

    A grid of one seed has one factor.
    """
    cubes = squares = 0.0
    for axis in (0, 1) if len(values_SN) > 1 else (1,):
        size = values_SN.shape[axis]
        left_out = [float(np.delete(values_SN, at, axis=axis).mean()) for at in range(size)]
        centre = sum(left_out) / size
        for value in left_out:
            influence = (size - 1) * (centre - value)
            cubes += influence**3 / size**3
            squares += influence**2 / size**2
    return float(cubes / (6.0 * squares**1.5))


def benjamini_hochberg(p_values: Sequence[float], penalty: float = 1.0) -> list[float]:
    """Adjusted p-value of each hypothesis: the smallest q at which it would be rejected."""
    size = len(p_values)
    adjusted = []
    for p in p_values:
        later = [
            size * penalty * other / sum(1 for q in p_values if q <= other)
            for other in p_values
            if other >= p
        ]
        adjusted.append(min(1.0, *later) if later else 1.0)
    return adjusted


def weighted_two_way(values_SN: FloatArray, sizes: Sequence[float]) -> tuple[float, float, float]:
    """Mean over examples, its variance, and the units' degrees of freedom, as in stats/twoway.py.

    The covariance of the units' deviations is multiplied out as a matrix.
    """
    num_seeds, num_units = values_SN.shape
    total = sum(sizes)
    p = [size / total for size in sizes]
    q = sum(share**2 for share in p)
    unit = [sum(map(float, column)) / num_seeds for column in values_SN.T]
    seed = [sum(share * float(v) for share, v in zip(p, row, strict=True)) for row in values_SN]
    mean = sum(share * m for share, m in zip(p, unit, strict=True))
    a = [share**2 / (1 - 2 * share + q) for share in p]
    units = sum(factor * (m - mean) ** 2 for factor, m in zip(a, unit, strict=True))
    seeds = sum((m - mean) ** 2 for m in seed) / (num_seeds * (num_seeds - 1))
    residual = 0.0
    for s in range(num_seeds):
        for i in range(num_units):
            residual += a[i] * (float(values_SN[s, i]) - seed[s] - unit[i] + mean) ** 2
    residual /= num_seeds * (num_seeds - 1)
    projection = np.eye(num_units) - np.outer(np.ones(num_units), p)
    covariance = projection @ projection.T
    weighted = np.diag(a) @ covariance
    df = float(np.trace(weighted)) ** 2 / float(np.trace(weighted @ weighted))
    return mean, units + max(seeds - residual, 0.0), df
