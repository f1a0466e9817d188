"""BCa limits (Efron 1987) of many metrics at once, with the Monte-Carlo error of each limit.

z0 is the normal quantile of the share of replicates below the estimate, ties counted half. Scores
take few distinct values, so replicates tie with the estimate, and two sums that are equal on
paper may differ in their last bits: replicates closer than a tolerance are ties. scipy has no
tolerance and breaks such ties by rounding error (`ties="scipy"` does as scipy).

Knows nothing of how replicates came to be. Shapes: B resamples, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from stats.bootstrap.replicates import ManyReplicates
from stats.errors import DegenerateDataError, StatsError
from stats.result import BootstrapInterval

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Ties = Literal["tolerance", "scipy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BcaLimits:
    """Limits of M metrics; NaN exactly where `defined_M` is False."""

    low_M: FloatArray
    high_M: FloatArray
    low_error_M: FloatArray
    """Monte-Carlo standard error of the limit."""
    high_error_M: FloatArray
    defined_M: BoolArray
    """False where all replicates are equal or lie on one side of the estimate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """Where a BCa limit is read, as a probability of the bootstrap distribution."""

    at_M: FloatArray
    slope_M: FloatArray
    """Derivative of the normal quantile of `at_M` by z0."""


def bca_tails(z0_M: FloatArray, acceleration_M: FloatArray, level: float) -> tuple[Tail, Tail]:
    """The lower and the upper tail (Efron 1987, equation 2.3)."""
    low, high = (
        _tail(z0_M, acceleration_M, float(ndtri(0.5 + side * level / 2))) for side in (-1, 1)
    )
    return low, high


def _tail(z0_M: FloatArray, acceleration_M: FloatArray, z: float) -> Tail:
    shifted_M = z0_M + z
    stretch_M = 1.0 - acceleration_M * shifted_M
    # Past the pole of the BCa transformation the limit is the outermost replicate.
    proper_M = stretch_M > 0
    safe_M = np.where(proper_M, stretch_M, 1.0)
    return Tail(
        at_M=np.where(proper_M, ndtr(z0_M + shifted_M / safe_M), float(z > 0)),
        slope_M=np.where(proper_M, 1.0 + 1.0 / safe_M**2, 1.0),
    )


def bca_limits(
    replicates: ManyReplicates,
    *,
    level: float = 0.95,
    ties: Ties = "tolerance",
    calibration_M: FloatArray | None = None,
    overwrite: bool = False,
) -> BcaLimits:
    """Limits from replicates.

    Args:
        calibration_M: distances of the limits from the estimate are multiplied by this.
        overwrite: the replicates may be left sorted, which spares a copy of them.
    """
    check_level(level)
    if ties not in ("tolerance", "scipy"):
        raise StatsError(f"ties must be 'tolerance' or 'scipy', got {ties!r}.")
    estimate_M = replicates.estimate_M
    sorted_MB = replicates.values_MB if overwrite else replicates.values_MB.copy()
    sorted_MB.sort(axis=1)
    num = sorted_MB.shape[1]
    tolerance_M = replicates.tie_tolerance_M if ties == "tolerance" else np.zeros_like(estimate_M)
    below_M = np.count_nonzero(sorted_MB < (estimate_M - tolerance_M)[:, None], axis=1)
    at_most_M = np.count_nonzero(sorted_MB <= (estimate_M + tolerance_M)[:, None], axis=1)
    share_M = (below_M + at_most_M) / (2 * num)
    defined_M = (share_M > 0.0) & (share_M < 1.0) & (sorted_MB[:, 0] < sorted_MB[:, -1])
    share_M = np.where(defined_M, share_M, 0.5)
    z0_M = ndtri(share_M)
    factor_M = np.ones_like(estimate_M) if calibration_M is None else calibration_M
    limits: list[tuple[FloatArray, FloatArray]] = []
    for tail in bca_tails(z0_M, replicates.acceleration_M, level):
        limit_M = quantiles(sorted_MB, tail.at_M)
        error_M = _limit_errors(sorted_MB, tail.at_M, share_M, z0_M, tail.slope_M)
        limit_M = estimate_M + factor_M * (limit_M - estimate_M)
        limits.append(
            (
                np.where(defined_M, limit_M, np.nan),
                np.where(defined_M, factor_M * error_M, np.nan),
            )
        )
    (low_M, low_error_M), (high_M, high_error_M) = limits
    return BcaLimits(
        low_M=low_M,
        high_M=high_M,
        low_error_M=low_error_M,
        high_error_M=high_error_M,
        defined_M=defined_M,
    )


def bca_interval(
    values_B: FloatArray,
    estimate: float,
    acceleration: float,
    *,
    level: float = 0.95,
    tie_tolerance: float = 0.0,
    calibration: float = 1.0,
) -> BootstrapInterval:
    """BCa limits of one metric from its replicates.

    With `tie_tolerance=0` and `calibration=1` this is the interval of scipy.stats.bootstrap.

    Raises:
        DegenerateDataError: all replicates lie on one side of the estimate, or are equal to it,
            or one is not finite.
    """
    values_B = np.asarray(values_B, dtype=np.float64)
    if not (np.isfinite(values_B).all() and np.isfinite([estimate, acceleration]).all()):
        raise DegenerateDataError("A replicate, the estimate or the acceleration is not finite.")
    found = bca_limits(
        ManyReplicates(
            estimate_M=np.array([estimate]),
            values_MB=values_B[None],
            acceleration_M=np.array([acceleration]),
            standard_deviation_M=np.array([float(values_B.std())]),
            tie_tolerance_M=np.array([tie_tolerance]),
        ),
        level=level,
        calibration_M=np.array([calibration]),
    )
    if not found.defined_M[0]:
        below = int(np.count_nonzero(values_B < estimate - tie_tolerance))
        above = int(np.count_nonzero(values_B > estimate + tie_tolerance))
        raise DegenerateDataError(
            f"{len(values_B)} replicates, of which {below} lie below the estimate and {above} "
            "above: BCa is not defined."
        )
    return BootstrapInterval(
        low=float(found.low_M[0]),
        high=float(found.high_M[0]),
        low_error=float(found.low_error_M[0]),
        high_error=float(found.high_error_M[0]),
        level=level,
        resamples=len(values_B),
        calibration=calibration,
        method="crossed BCa" if calibration == 1.0 else "crossed BCa, calibrated to two-way width",
    )


def check_level(level: float) -> None:
    """Refuses a level that is no probability strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise StatsError(f"level must lie between 0 and 1, got {level}.")


def quantiles(sorted_MB: FloatArray, at_M: FloatArray) -> FloatArray:
    """The quantile of each row at its own probability, as np.quantile (linear) gives it."""
    place_M = at_M * (sorted_MB.shape[1] - 1)
    left_M = np.floor(place_M).astype(np.intp)
    right_M = np.minimum(left_M + 1, sorted_MB.shape[1] - 1)
    rows_M = np.arange(len(sorted_MB))
    low_M, high_M = sorted_MB[rows_M, left_M], sorted_MB[rows_M, right_M]
    share_M, step_M = place_M - left_M, high_M - low_M
    from_right_M = high_M - step_M * (1 - share_M)
    found_M: FloatArray = np.where(share_M >= 0.5, from_right_M, low_M + step_M * share_M)
    return found_M


def _limit_errors(
    sorted_MB: FloatArray,
    tail_M: FloatArray,
    share_M: FloatArray,
    z0_M: FloatArray,
    slope_M: FloatArray,
) -> FloatArray:
    """Monte-Carlo standard deviation of BCa limits (delta method).

    The limit is the empirical quantile at a tail probability that itself depends on the share
    of replicates below the estimate. Both are means of B indicators; with f the density at the
    limit and g = d tail / d share,

        Var = (tail (1-tail) + g^2 share (1-share) - 2 g (min(tail, share) - tail share)) / (B f^2)
    """
    num = sorted_MB.shape[1]
    tail_M = np.clip(tail_M, 0.5 / num, 1 - 0.5 / num)
    half_M = 2.0 * np.sqrt(tail_M * (1 - tail_M) / num)
    lower_M, upper_M = np.maximum(tail_M - half_M, 0.0), np.minimum(tail_M + half_M, 1.0)
    rise_M = quantiles(sorted_MB, upper_M) - quantiles(sorted_MB, lower_M)
    density_M = np.exp(-0.5 * ndtri(tail_M) ** 2)
    g_M = density_M / np.exp(-0.5 * z0_M**2) * slope_M
    joint_M = np.minimum(tail_M, share_M) - tail_M * share_M
    variance_M = (
        tail_M * (1 - tail_M) + g_M * g_M * share_M * (1 - share_M) - 2 * g_M * joint_M
    ) / num
    error_M: FloatArray = rise_M / (upper_M - lower_M) * np.sqrt(np.maximum(variance_M, 0.0))
    return error_M
