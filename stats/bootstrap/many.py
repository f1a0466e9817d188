"""BCa intervals of many metrics at once, on the same resamples.

`bca_many(values_NM, OneWayResamples(...))` covers new units; `bca_many(values_SNM,
CrossedResamples(...))` covers new seeds and new units, its width calibrated to the two-way
variance. `crossed_bca` is the second for one grid.

The replicate variance of the crossed resamples counts the residual about three times, so a plain
interval is too wide. Therefore distances from the estimate are multiplied by

    calibration = t(df) se_two_way / (z sd_replicates)

so that BCa gives the skewness and the two-way t gives the width.

Shapes: B resamples, S seeds, N units, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from stats.bootstrap.bca import Ties, bca_interval, bca_limits, check_level
from stats.bootstrap.categories import CategoryResamples
from stats.bootstrap.crossed import CrossedResamples
from stats.bootstrap.oneway import OneWayResamples
from stats.errors import DegenerateDataError, StatsError
from stats.result import BootstrapInterval
from stats.twoway import TwoWay, exact_bound, two_way
from stats.twoway_many import two_way_many

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CROSSED = "crossed BCa"
CALIBRATED = "crossed BCa, calibrated to two-way width"
UNITS_ONLY = "BCa over units only"


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyIntervals:
    """Intervals of M metrics."""

    estimate_M: FloatArray
    low_M: FloatArray
    high_M: FloatArray
    low_error_M: FloatArray
    """Monte-Carlo standard error of `low_M`; 0 where the exact bound was used."""
    high_error_M: FloatArray
    calibration_M: FloatArray
    defined_M: BoolArray
    """False (limits NaN) only with `undefined="mask"`: nothing varies, or BCa has no limits."""
    exact_M: BoolArray
    """True where nothing varied and the exact bound took the place of BCa."""
    level: float
    resamples: int
    method: str

    def one(self, metric: int) -> BootstrapInterval:
        """The interval of one metric.

        Raises:
            DegenerateDataError: it is not defined, or it is the exact bound and no bootstrap.
        """
        if not self.defined_M[metric] or self.exact_M[metric]:
            raise DegenerateDataError(f"Metric {metric} has no bootstrap interval.")
        return BootstrapInterval(
            low=float(self.low_M[metric]),
            high=float(self.high_M[metric]),
            low_error=float(self.low_error_M[metric]),
            high_error=float(self.high_error_M[metric]),
            level=self.level,
            resamples=self.resamples,
            calibration=float(self.calibration_M[metric]),
            method=self.method,
        )


def bca_many(
    values: npt.ArrayLike,
    resampler: OneWayResamples | CrossedResamples | CategoryResamples,
    *,
    level: float = 0.95,
    calibrated: bool = True,
    ties: Ties = "tolerance",
    value_range: tuple[float, float] | None = None,
    undefined: Literal["raise", "mask"] = "raise",
) -> ManyIntervals:
    """BCa intervals of the mean of every metric.

    Args:
        values: units x metrics for `OneWayResamples`, seeds x units x metrics for
            `CrossedResamples`, either for `CategoryResamples`.
        calibrated: with seeds, rescale to the two-way width. False gives the plain crossed BCa,
            which is often too wide.
        ties: "scipy" compares replicates with the estimate without a tolerance.
        value_range: least and largest value that a cell can take. A metric that is constant then
            gets the exact bound of `stats.twoway.exact_bound` for new units.
        undefined: "raise" refuses metrics without an interval by number; "mask" gives NaN limits
            and `defined_M` False.

    Raises:
        DegenerateDataError: fewer than 2 units (or seeds), a value that is not finite, or a
            metric without an interval.
    """
    check_level(level)
    if undefined not in ("raise", "mask"):
        raise StatsError(f"undefined must be 'raise' or 'mask', got {undefined!r}.")
    table = np.asarray(values, dtype=np.float64)
    wanted = {OneWayResamples: (2,), CrossedResamples: (3,)}.get(type(resampler), (2, 3))
    if table.ndim not in wanted:
        raise DegenerateDataError(
            f"{type(resampler).__name__} takes {' or '.join(map(str, wanted))} axes (units x "
            f"metrics, or seeds x units x metrics), got shape {table.shape}."
        )
    crossed = table.ndim == 3
    replicates = resampler.many(table)
    num_metrics = table.shape[-1]
    calibration_M = np.ones(num_metrics)
    flat_M = np.ptp(table.reshape(-1, num_metrics), axis=0) == 0.0
    empty_M = flat_M
    if crossed:
        analysis = two_way_many(table)
        empty_M = flat_M | analysis.degenerate_M
        if calibrated:
            t_M = stdtrit(analysis.df_M, 0.5 + level / 2) * analysis.standard_error_M
            z = float(ndtri(0.5 + level / 2))
            np.divide(t_M, z * replicates.standard_deviation_M, out=calibration_M, where=~empty_M)
    limits = bca_limits(
        replicates, level=level, ties=ties, calibration_M=calibration_M, overwrite=True
    )
    low_M, high_M = limits.low_M, limits.high_M
    errors = [limits.low_error_M, limits.high_error_M]
    defined_M = limits.defined_M & ~empty_M
    exact_M = np.zeros(num_metrics, dtype=bool)
    if value_range is not None:
        least, largest = value_range
        if table.min() < least or table.max() > largest:
            raise StatsError(
                f"Values from {table.min()} to {table.max()} lie outside value_range {value_range}."
            )
        exact_M = flat_M
        share = exact_bound(table.shape[-2], level)
        estimate_M = replicates.estimate_M
        low_M = np.where(exact_M, estimate_M - share * (estimate_M - least), low_M)
        high_M = np.where(exact_M, estimate_M + share * (largest - estimate_M), high_M)
        errors = [np.where(exact_M, 0.0, error_M) for error_M in errors]
        defined_M = defined_M | exact_M
    if undefined == "raise" and not defined_M.all():
        _refuse(defined_M, empty_M)
    nan_M = np.where(defined_M, 0.0, np.nan)
    return ManyIntervals(
        estimate_M=replicates.estimate_M,
        low_M=low_M + nan_M,
        high_M=high_M + nan_M,
        low_error_M=errors[0] + nan_M,
        high_error_M=errors[1] + nan_M,
        calibration_M=calibration_M,
        defined_M=defined_M,
        exact_M=exact_M,
        level=level,
        resamples=resampler.resamples,
        method=(CALIBRATED if calibrated else CROSSED) if crossed else UNITS_ONLY,
    )


def crossed_bca(
    values_SN: FloatArray,
    resampler: CrossedResamples,
    *,
    level: float = 0.95,
    analysis: TwoWay | None = None,
    calibrated: bool = True,
) -> BootstrapInterval:
    """BCa interval of the mean of a grid.

    Args:
        analysis: the two-way analysis of the same grid, if it is already at hand.
        calibrated: False gives the plain crossed BCa, which is often too wide.

    Raises:
        DegenerateDataError: nothing varies, or fewer than 2 x 2 cells.
    """
    check_level(level)
    analysis = analysis or two_way(values_SN)
    if analysis.degenerate:
        raise DegenerateDataError("The variance is zero: a bootstrap interval has no width.")
    replicates = resampler.replicates(values_SN)
    calibration = 1.0
    if calibrated:
        t = float(stdtrit(analysis.df, 0.5 + level / 2))
        z = float(ndtri(0.5 + level / 2))
        calibration = t * analysis.standard_error / (z * replicates.standard_deviation)
    return bca_interval(
        replicates.values_B,
        replicates.estimate,
        replicates.acceleration,
        level=level,
        tie_tolerance=replicates.tie_tolerance,
        calibration=calibration,
    )


def _refuse(defined_M: BoolArray, empty_M: BoolArray) -> None:
    constant = [int(m) for m in np.flatnonzero(empty_M & ~defined_M)]
    one_sided = [int(m) for m in np.flatnonzero(~empty_M & ~defined_M)]
    reasons = []
    if constant:
        reasons.append(f"nothing varies in metrics {constant[:10]}, so the variance is zero")
    if one_sided:
        reasons.append(f"all replicates of metrics {one_sided[:10]} lie on one side of the mean")
    raise DegenerateDataError(
        f"{len(constant) + len(one_sided)} metrics have no BCa interval: {'; '.join(reasons)}."
    )
