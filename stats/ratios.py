"""Ratio of two means on one grid: log-ratio two-way interval, and a BCa interval beside it.

    R = mean(top) / mean(bottom)

The interval of log R comes from the two-way t of the linearised values top / mean(top) - bottom /
mean(bottom). The BCa interval resamples seeds and units, forms the ratio of the two resampled
means, and is rescaled on the log scale to the two-way width. Neither decides a gate: a claim about
a ratio is tested as a linear contrast, which has no pole. A mean of units of unequal size is a
ratio too, of weighted sums over sums of weights, and its bootstrap is found here.

Knows no gates and no score tables. Shapes: B resamples, S seeds, N units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri, stdtrit

from stats.bootstrap import CrossedResamples, bca_interval
from stats.errors import DegenerateDataError, MagnitudeError
from stats.result import BootstrapInterval, Interval
from stats.scores import FloatArray
from stats.twoway import LARGEST, SMALLEST, TwoWay, two_way

METHOD = "two-way Satterthwaite t, linearised log ratio"


@dataclass(frozen=True, kw_only=True, slots=True)
class RatioInference:
    """What is known about a ratio of means; figures on the scale of the ratio."""

    ratio: float | None
    """None where it is not estimable."""
    interval: Interval | None
    bootstrap: BootstrapInterval | None
    why: str
    """What is missing, and why; empty where nothing is."""


def infer_ratio(
    top_SN: FloatArray,
    bottom_SN: FloatArray,
    resampler: CrossedResamples,
    *,
    level: float = 0.95,
    weights_N: FloatArray | None = None,
) -> RatioInference:
    """Ratio of the means of two grids of values >= 0.

    A mean of zero leaves nothing to divide (or a reduction of 100 % that nobody should believe):
    the ratio is then not estimable.
    """
    if weights_N is not None:
        scaled_N = _scaled(weights_N)
        top_SN, bottom_SN = top_SN * scaled_N, bottom_SN * scaled_N
    top, bottom = float(top_SN.mean()), float(bottom_SN.mean())
    for name, mean in (("denominator", bottom), ("numerator", top)):
        if not SMALLEST <= mean <= LARGEST:
            return RatioInference(
                ratio=None, interval=None, bootstrap=None, why=f"the {name}'s mean is {mean:g}"
            )
    centre = math.log(top / bottom)
    linear_SN = top_SN / top - bottom_SN / bottom
    try:
        analysis = two_way(
            linear_SN if weights_N is None else linear_SN / scaled_N,
            weights_N,
            magnitude=max(float(top_SN.max()) / top, float(bottom_SN.max()) / bottom),
        )
    except MagnitudeError as error:
        return RatioInference(ratio=top / bottom, interval=None, bootstrap=None, why=str(error))
    if analysis.degenerate:
        why = "the ratio is the same for every seed and unit"
        return RatioInference(ratio=top / bottom, interval=None, bootstrap=None, why=why)
    low, high = analysis.interval(level)
    shift = centre - analysis.estimate
    interval = Interval(
        low=ratio_of(low + shift), high=ratio_of(high + shift), level=level, method=METHOD
    )
    try:
        bootstrap = _log_ratio_bca(top_SN, bottom_SN, resampler, level, analysis)
        why = ""
    except DegenerateDataError as error:
        bootstrap, why = None, f"no BCa interval: {error}"
    return RatioInference(ratio=top / bottom, interval=interval, bootstrap=bootstrap, why=why)


def weighted_mean_bca(
    values_SN: FloatArray,
    weights_N: FloatArray,
    resampler: CrossedResamples,
    *,
    level: float,
    analysis: TwoWay,
) -> BootstrapInterval:
    """Crossed BCa of the mean over examples where units differ in size.

    A replicate is the sum of what was drawn over the number of examples drawn.

    Raises:
        DegenerateDataError: nothing varies, or BCa is not defined.
    """
    scaled_N = _scaled(weights_N)
    first = float(values_SN[0, 0])
    centred_SN = values_SN - first
    top = resampler.replicates(centred_SN * scaled_N)
    bottom = resampler.replicates(np.broadcast_to(scaled_N, values_SN.shape).copy())
    replicates_B = top.values_B / bottom.values_B
    linear = resampler.replicates((centred_SN - top.estimate) * scaled_N)
    found = bca_interval(
        first + replicates_B,
        first + top.estimate,
        linear.acceleration,
        level=level,
        tie_tolerance=_tolerance(first + replicates_B),
        calibration=_calibration(analysis, linear.standard_deviation, level),
    )
    return replace(
        found, method="crossed BCa of the size-weighted mean, calibrated to two-way width"
    )


def _log_ratio_bca(
    top_SN: FloatArray,
    bottom_SN: FloatArray,
    resampler: CrossedResamples,
    level: float,
    analysis: TwoWay,
) -> BootstrapInterval:
    top, bottom = resampler.replicates(top_SN), resampler.replicates(bottom_SN)
    bad = np.count_nonzero((top.values_B < SMALLEST) | (bottom.values_B < SMALLEST))
    if bad:
        raise DegenerateDataError(
            f"{bad} of {resampler.resamples} resamples have a mean of zero above or below the line"
        )
    linear = resampler.replicates(top_SN / top.estimate - bottom_SN / bottom.estimate)
    log_B = np.log(top.values_B / bottom.values_B)
    found = bca_interval(
        log_B,
        math.log(top.estimate / bottom.estimate),
        linear.acceleration,
        level=level,
        tie_tolerance=_tolerance(log_B),
        calibration=_calibration(analysis, linear.standard_deviation, level),
    )
    low, high = ratio_of(found.low), ratio_of(found.high)
    return BootstrapInterval(
        low=low,
        high=high,
        low_error=low * found.low_error,
        high_error=high * found.high_error,
        level=level,
        resamples=found.resamples,
        calibration=found.calibration,
        method="crossed BCa of the log ratio of means, calibrated to two-way width",
    )


def _calibration(analysis: TwoWay, deviation: float, level: float) -> float:
    if analysis.degenerate or deviation == 0.0:
        raise DegenerateDataError("the variance is zero: a bootstrap interval has no width")
    t, z = float(stdtrit(analysis.df, 0.5 + level / 2)), float(ndtri(0.5 + level / 2))
    return t * analysis.standard_error / (z * deviation)


def _tolerance(values_B: FloatArray) -> float:
    return 1e-12 * float(np.ptp(values_B)) + 8 * float(np.spacing(np.abs(values_B).max()))


def _scaled(weights_N: FloatArray) -> FloatArray:
    """Weights with mean 1."""
    scaled_N: FloatArray = weights_N / weights_N.mean()
    return scaled_N


def ratio_of(log_ratio: float) -> float:
    """exp without overflow: no ratio of means in double precision lies beyond."""
    return math.exp(min(log_ratio, 709.0))
