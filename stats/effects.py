"""Standardised mean differences, each under its own name, Hedges-corrected, with intervals.

With paired values of treatment T and control C and difference D = T - C:

    d_z      = mean(D) / sd(D)                          what a paired test sees
    d_av     = mean(D) / ((sd(T) + sd(C)) / 2)          comparable with unpaired studies
    d_pooled = mean(D) / sqrt((sd(T)^2 + sd(C)^2) / 2)

(Lakens 2013.) All are multiplied by Hedges' J = gamma(m/2) / (sqrt(m/2) gamma((m-1)/2)) with
m = n - 1. The interval of d_z inverts the noncentral t; those of d_av and d_pooled are the same
limits times sd(D) over the denominator (Algina and Keselman 2003). Over seeds, n is the number
of seeds: with 5 of them the interval is very wide, and says so. Knows no gates.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from stats.noncentral import noncentrality
from stats.result import EffectSize

FloatArray = npt.NDArray[np.float64]
Unit = Literal["seeds", "examples", "clusters"]


def effect_sizes(
    treatment_SN: FloatArray,
    control_SN: FloatArray,
    *,
    level: float = 0.95,
    unit: Literal["examples", "clusters"] = "examples",
    weights_N: FloatArray | None = None,
) -> tuple[EffectSize, ...]:
    """d_z over seeds, and d_z, d_av, d_pooled over examples (averaged over seeds).

    A size whose denominator is zero is left out.

    Args:
        unit: what the columns are; over clusters every cluster counts once, whatever its size.
        weights_N: weights of the columns in the means of the seeds; None: equal ones.
    """
    difference_SN = treatment_SN - control_SN
    found: list[EffectSize] = []
    seed_S = (
        difference_SN.mean(axis=1)
        if weights_N is None
        else difference_SN @ (weights_N / weights_N.sum())
    )
    # Differences of rounding errors are no spread.
    size = max(float(np.abs(arm_SN).max()) for arm_SN in (treatment_SN, control_SN))
    by_seed = d_z(seed_S, unit="seeds", level=level, magnitude=size)
    by_example = d_z(difference_SN.mean(axis=0), unit=unit, level=level, magnitude=size)
    found += [size for size in (by_seed, by_example) if size is not None]
    if by_example is not None:
        deviation = _deviation(difference_SN.mean(axis=0))
        first = _deviation(treatment_SN.mean(axis=0))
        second = _deviation(control_SN.mean(axis=0))
        average = (first + second) / 2
        pooled = math.sqrt((first**2 + second**2) / 2)
        if average > 0:
            found.append(_rescaled(by_example, "d_av", deviation / average))
            found.append(_rescaled(by_example, "d_pooled", deviation / pooled))
    return tuple(found)


def d_z(
    values_n: FloatArray, *, unit: Unit, level: float = 0.95, magnitude: float = 0.0
) -> EffectSize | None:
    """Mean over standard deviation of paired differences; None where nothing varies.

    Args:
        magnitude: size of what was subtracted; a spread of its rounding errors is none.
    """
    num = len(values_n)
    deviation = _deviation(values_n, magnitude)
    if deviation == 0.0:
        return None
    t = float(np.mean(values_n)) / deviation * math.sqrt(num)
    factor = hedges_j(num - 1) / math.sqrt(num)
    low, high = noncentrality_interval(t, num - 1, level)
    return EffectSize(name="d_z", unit=unit, value=t * factor, low=low * factor, high=high * factor)


def hedges_j(df: int) -> float:
    """Hedges' small-sample correction."""
    if df < 2:
        return 1.0
    return math.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def noncentrality_interval(t: float, df: float, level: float = 0.95) -> tuple[float, float]:
    """Noncentralities under which `t` is just not surprising, on either side."""
    tail = (1.0 - level) / 2.0
    return noncentrality(t, df, 1.0 - tail), noncentrality(t, df, tail)


def _rescaled(size: EffectSize, name: Literal["d_av", "d_pooled"], factor: float) -> EffectSize:
    return EffectSize(
        name=name,
        unit=size.unit,
        value=size.value * factor,
        low=size.low * factor,
        high=size.high * factor,
    )


def _deviation(values_n: FloatArray, magnitude: float = 0.0) -> float:
    if len(values_n) < 2:
        return 0.0
    rounding = 8 * np.finfo(np.float64).eps * max(float(np.abs(values_n).max()), magnitude)
    if float(np.ptp(values_n)) <= rounding:
        return 0.0
    return float(np.std(values_n - values_n[0], ddof=1))
