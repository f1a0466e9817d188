"""The ideal bootstrap (Efron and Tibshirani 1993, section 6.4): BCa limits from every resample.

A resample of N units is N independent draws from them, so the distribution of its mean is the
N-fold convolution of the data with themselves. Its characteristic function is the data's own to
the power N, and needs no random number:

    Z = sum of N draws of w,  w_j = (x_j - mean) / sqrt(sum (x_j - mean)^2),  E Z = 0, Var Z = 1
    E exp(iuZ) = (1/N sum_j exp(iu w_j))^N

`coarse_sums.py` takes that back to probabilities where values lie on a coarse lattice (binary
scores, thirds), `fine_sums.py` where they do not. The limits are those to which B drawn resamples
tend as B grows: they have no Monte-Carlo error, and cost less than 10,000 drawn ones. Only for
means over units; seeds and units crossed are drawn (`crossed.py`).

Shapes: N units, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from stats.bootstrap.bca import bca_tails, check_level
from stats.bootstrap.coarse_sums import CoarseSums
from stats.bootstrap.fine_sums import FineSums
from stats.errors import DegenerateDataError, MagnitudeError, StatsError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class IdealIntervals:
    """Intervals of M metrics over new units; limits NaN exactly where `defined_M` is False."""

    estimate_M: FloatArray
    low_M: FloatArray
    high_M: FloatArray
    defined_M: BoolArray
    """False only with `undefined="mask"`: nothing varies, or `bca_ideal` cannot resolve it."""
    coarse_M: BoolArray
    """True where the values lie on a coarse lattice: a limit is then a point of it."""
    level: float
    method: str = "BCa over units only, every resample"


def bca_ideal(
    values: npt.ArrayLike,
    *,
    level: float = 0.95,
    undefined: Literal["raise", "mask"] = "raise",
) -> IdealIntervals:
    """BCa intervals of the mean of every column of a table units x metrics.

    Probabilities are exact to 1e-9. Where values are on no coarse lattice, steps of the resampled
    mean finer than 0.013 of its standard deviations are smoothed, which moves a limit by half a
    step at most: a quarter of the Monte-Carlo error of a limit from 10,000 resamples.

    Raises:
        DegenerateDataError: fewer than 2 units, a value that is not finite, or a metric where
            nothing varies or a limit lies beyond every resample.
        StatsError: the resampled mean of a metric is neither on a coarse lattice nor fine enough
            (few units, or scores that are nearly but not quite on a lattice); draw resamples then.
    """
    check_level(level)
    if undefined not in ("raise", "mask"):
        raise StatsError(f"undefined must be 'raise' or 'mask', got {undefined!r}.")
    table_MN = _checked(values)
    unit_MN, mean_M, deviation_M = _standardise(table_MN)
    least_M, largest_M = table_MN.min(axis=1), table_MN.max(axis=1)
    varies_M = deviation_M > 0
    coarse = CoarseSums.of(unit_MN)
    coarse_M = coarse.on_lattice_M
    fine = np.flatnonzero(varies_M & ~coarse_M)
    series = FineSums.of(unit_MN[fine])
    resolved_M = coarse_M.copy()
    resolved_M[fine] = series.resolved_M
    unresolved = np.flatnonzero(varies_M & ~resolved_M)
    if undefined == "raise" and len(unresolved):
        raise StatsError(
            f"Resampled means of metrics {unresolved[:10].tolist()} are neither on a coarse "
            f"lattice nor fine, with {unit_MN.shape[1]} units. Draw resamples instead: "
            "bca_many(values, OneWayResamples(rng_seed=...))."
        )
    share_M = coarse.mid_share()
    share_M[fine] = series.share_below(np.zeros(len(fine)))
    acceleration_M = np.einsum("mn,mn,mn->m", unit_MN, unit_MN, unit_MN) / 6
    limits: list[FloatArray] = []
    defined_M = resolved_M.copy()
    for tail in bca_tails(ndtri(share_M), acceleration_M, level):
        at_M = coarse.quantile(tail.at_M)
        at_M[fine] = series.quantile(tail.at_M[fine])
        defined_M &= np.isfinite(at_M)
        # Rounding must not take a limit of shares below 0.
        limits.append(np.clip(mean_M + deviation_M * at_M, least_M, largest_M))
    if undefined == "raise" and not defined_M.all():
        raise DegenerateDataError(_reason(varies_M, defined_M))
    nan_M = np.where(defined_M, 0.0, np.nan)
    return IdealIntervals(
        estimate_M=mean_M,
        low_M=limits[0] + nan_M,
        high_M=limits[1] + nan_M,
        defined_M=defined_M,
        coarse_M=coarse_M,
        level=level,
    )


def _checked(values: npt.ArrayLike) -> FloatArray:
    """A row a metric."""
    table_NM = np.asarray(values, dtype=np.float64)
    if table_NM.ndim != 2 or table_NM.shape[0] < 2 or table_NM.shape[1] < 1:
        raise DegenerateDataError(
            f"Expected at least 2 units x 1 metric, got shape {table_NM.shape}."
        )
    return np.ascontiguousarray(table_NM.T)


def _standardise(table_MN: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rows with mean 0 and sum of squares 1; mean and bootstrap standard deviation of each."""
    origin_M1 = table_MN[:, :1].copy()
    with np.errstate(over="ignore", invalid="ignore"):
        unit_MN = table_MN - origin_M1
    size_M = np.maximum(unit_MN.max(axis=1), -unit_MN.min(axis=1))
    odd = np.flatnonzero(~np.isfinite(size_M))
    if len(odd):
        if np.isfinite(table_MN[odd]).all():
            raise MagnitudeError(f"Metrics {odd[:10].tolist()} span more than float64 holds.")
        raise DegenerateDataError(
            f"Metrics {odd[:10].tolist()} hold NaN or infinite values; a resample has no mean then."
        )
    # A power of two, so that squares neither overflow nor vanish and no digit changes.
    exponent_M = np.frexp(size_M)[1]
    unit_MN *= np.ldexp(1.0, -np.clip(exponent_M, -1000, 1000))[:, None]
    scale_M = np.ldexp(1.0, np.clip(exponent_M, -1000, 1000))
    shift_M = unit_MN.mean(axis=1)
    unit_MN -= shift_M[:, None]
    length_M = np.sqrt(np.einsum("mn,mn->m", unit_MN, unit_MN))
    varies_M = size_M > 0
    length_M[~varies_M] = 0.0
    unit_MN /= np.where(varies_M, length_M, 1.0)[:, None]
    deviation_M = length_M * scale_M / table_MN.shape[1]
    return unit_MN, origin_M1[:, 0] + shift_M * scale_M, deviation_M


def _reason(varies_M: BoolArray, defined_M: BoolArray) -> str:
    constant = np.flatnonzero(~varies_M)
    beyond = np.flatnonzero(varies_M & ~defined_M)
    reasons = []
    if len(constant):
        reasons.append(f"nothing varies in metrics {constant[:10].tolist()}")
    if len(beyond):
        reasons.append(f"a limit of metrics {beyond[:10].tolist()} lies beyond every resample")
    return f"{len(constant) + len(beyond)} metrics have no BCa interval: {'; '.join(reasons)}."
