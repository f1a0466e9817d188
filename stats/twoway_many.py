"""The two-way analysis of `stats.twoway` for many metrics (or many simulated campaigns) at once.

Same formulas, same rounding floor, arrays instead of records; the tests hold them equal. Knows
nothing of scores, gates or bootstraps. Shapes: S seeds, N units, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from stats.errors import DegenerateDataError, MagnitudeError
from stats.twoway import ENOUGH_SEEDS

FloatArray = npt.NDArray[np.float64]

_LARGEST = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoWayMany:
    """Means of M grids with standard errors that cover new seeds and new units."""

    estimate_M: FloatArray
    standard_error_M: FloatArray
    """0 where nothing varies; such a metric has no interval."""
    df_M: FloatArray

    @property
    def degenerate_M(self) -> npt.NDArray[np.bool_]:
        flat_M: npt.NDArray[np.bool_] = self.standard_error_M == 0.0
        return flat_M

    def interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Two-sided limits; NaN where nothing varies."""
        half_M = stdtrit(self.df_M, 0.5 + level / 2) * self.standard_error_M
        half_M = np.where(self.degenerate_M, np.nan, half_M)
        return self.estimate_M - half_M, self.estimate_M + half_M

    def p_greater(self, null: float) -> FloatArray:
        """One-sided p-values of means above `null`; NaN where nothing varies."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t_M = (self.estimate_M - null) / self.standard_error_M
        p_M: FloatArray = np.where(self.degenerate_M, np.nan, stdtr(self.df_M, -t_M))
        return p_M


def two_way_many(values_SNM: npt.NDArray[np.floating]) -> TwoWayMany:
    """Analyses M complete grids.

    Raises:
        DegenerateDataError: fewer than 2 seeds or 2 units, or a value is not finite.
        MagnitudeError: values too large for double precision.
    """
    if values_SNM.ndim != 3 or min(values_SNM.shape[:2]) < 2:
        raise DegenerateDataError(
            f"Expected at least 2 seeds x 2 units x metrics, got shape {values_SNM.shape}."
        )
    num_seeds, num_units, num_metrics = values_SNM.shape
    first_M = values_SNM[0, 0].astype(np.float64)
    largest_M = np.zeros(num_metrics)
    seed_SM = np.empty((num_seeds, num_metrics))
    unit_NM = np.zeros((num_units, num_metrics))
    for s in range(num_seeds):
        largest_M = np.maximum(largest_M, np.abs(values_SNM[s]).max(axis=0))
    if not np.isfinite(largest_M).all():
        at = [int(m) for m in np.flatnonzero(~np.isfinite(largest_M))[:10]]
        raise DegenerateDataError(f"The grids of metrics {at} hold NaN or infinite values.")
    wide_M = largest_M > 2.0**_LARGEST
    if wide_M.any():
        at = [int(m) for m in np.flatnonzero(wide_M)[:10]]
        raise MagnitudeError(f"The grids of metrics {at} hold values above 2^{_LARGEST}.")
    for s in range(num_seeds):
        centred_NM = values_SNM[s] - first_M
        seed_SM[s] = centred_NM.mean(axis=0)
        unit_NM += centred_NM
    unit_NM /= num_seeds
    mean_M = seed_SM.mean(axis=0)
    seed_SM -= mean_M
    unit_NM -= mean_M
    # A power of two, so that squares neither overflow nor vanish and no digit changes.
    scale_M = np.ldexp(1.0, np.frexp(np.maximum(largest_M, np.finfo(np.float64).tiny))[1])
    residual_M = np.zeros(num_metrics)
    for s in range(num_seeds):
        left_NM = (values_SNM[s] - first_M - mean_M - seed_SM[s] - unit_NM) / scale_M
        residual_M += np.einsum("nm,nm->m", left_NM, left_NM)
    ms_seed_M = num_units * ((seed_SM / scale_M) ** 2).sum(axis=0) / (num_seeds - 1)
    ms_unit_M = num_seeds * ((unit_NM / scale_M) ** 2).sum(axis=0) / (num_units - 1)
    ms_residual_M = residual_M / ((num_seeds - 1) * (num_units - 1))
    # Squares of rounding errors are not variance.
    floor_M = (np.finfo(np.float64).eps * 8 * largest_M / scale_M) ** 2 * max(num_seeds, num_units)
    ms_seed_M, ms_unit_M, ms_residual_M = (
        np.where(square_M <= floor_M, 0.0, square_M)
        for square_M in (ms_seed_M, ms_unit_M, ms_residual_M)
    )
    top_M = ms_unit_M + np.maximum(ms_seed_M - ms_residual_M, 0.0)
    bottom_M = (
        ms_seed_M**2 / (num_seeds - 1)
        + ms_unit_M**2 / (num_units - 1)
        + ms_residual_M**2 / ((num_seeds - 1) * (num_units - 1))
    )
    df_M = np.ones(num_metrics)
    np.divide(top_M**2, bottom_M, out=df_M, where=bottom_M > 0)
    if num_seeds < ENOUGH_SEEDS:
        cap_M = np.full(num_metrics, np.inf)
        np.divide((num_seeds - 1) * top_M, ms_seed_M, out=cap_M, where=ms_seed_M > ms_residual_M)
        df_M = np.minimum(df_M, cap_M)
    return TwoWayMany(
        estimate_M=first_M + mean_M,
        standard_error_M=np.sqrt(top_M / (num_seeds * num_units)) * scale_M,
        df_M=np.maximum(df_M, 1.0),
    )
