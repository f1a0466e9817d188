"""Exact sums: values on a binary lattice, so that every replicate is an integer sum.

A metric is written as value = origin + k step with integers k so small that any sum of a
resample stays below 2^52. Then replicates are the same to the last bit for every BLAS, thread
count, batch and order of summation, and ties are ties. The rounding is 2^-52 of the range times
the number of cells, about 1e-12 of the range for 5 x 1,000. Where k fits 2^24 without any rounding
(binary scores, small integers, dyadic fractions) float32 gives the same integers at half the cost.

Knows nothing of resamples. Shapes: S seeds (1 where there is no such factor), N units, M metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stats.errors import DegenerateDataError, MagnitudeError

FloatArray = npt.NDArray[np.float64]

_DOUBLE_BITS = 52
_SINGLE_BITS = 24
_LARGEST = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """Values as integers, metric by metric: value = origin + k step."""

    steps_SNM: FloatArray
    """The integers k, stored as float64."""
    origin_M: FloatArray
    step_M: FloatArray
    tolerance_M: FloatArray
    """Means closer than this are equal: the rounding to the lattice and of the origin."""
    single_M: npt.NDArray[np.bool_]
    """True where float32 holds every sum exactly."""

    @property
    def means_M(self) -> FloatArray:
        """Mean of each metric, from the same integers as the replicates."""
        return self.to_means(self.steps_SNM.sum(axis=(0, 1))[:, None])[:, 0]

    def to_means(self, sums_MB: FloatArray) -> FloatArray:
        """Means of resamples from their integer sums, in place."""
        sums_MB /= self.steps_SNM.shape[0] * self.steps_SNM.shape[1]
        sums_MB *= self.step_M[:, None]
        sums_MB += self.origin_M[:, None]
        return sums_MB

    def parts(self) -> list[tuple[npt.NDArray[np.intp] | slice, type[np.floating[Any]]]]:
        """Which metrics to sum in which type; one slice where all share it."""
        if self.single_M.all():
            return [(slice(None), np.float32)]
        if not self.single_M.any():
            return [(slice(None), np.float64)]
        return [
            (np.flatnonzero(self.single_M), np.float32),
            (np.flatnonzero(~self.single_M), np.float64),
        ]


def to_lattice(values_SNM: FloatArray) -> Lattice:
    """Puts each metric on its own lattice.

    Raises:
        DegenerateDataError: a value is NaN or infinite.
        MagnitudeError: the range of a metric is too wide or too narrow for float64.
    """
    odd_M = np.asarray(~np.isfinite(values_SNM).all(axis=(0, 1)))
    if odd_M.any():
        raise DegenerateDataError(
            f"Metrics {_name(odd_M)} hold NaN or infinite values; a resample has no mean then."
        )
    origin_M = values_SNM[0, 0].copy()
    with np.errstate(over="ignore"):
        moved_SNM = values_SNM - origin_M
        largest_M = np.abs(moved_SNM).max(axis=(0, 1))
    outside_M = ~(largest_M <= 2.0**_LARGEST) | ((largest_M > 0) & (largest_M < 2.0**-_LARGEST))
    if outside_M.any():
        raise MagnitudeError(
            f"Metrics {_name(outside_M)} span more than 2^{_LARGEST} or less than 2^-{_LARGEST}: "
            "their sums leave the range of float64. Rescale them."
        )
    cells = values_SNM.shape[0] * values_SNM.shape[1]
    headroom = math.ceil(math.log2(cells))
    exponent_M = np.frexp(largest_M)[1]
    step_M = np.where(largest_M > 0, np.ldexp(1.0, exponent_M - (_DOUBLE_BITS - headroom)), 1.0)
    coarse_M = np.where(largest_M > 0, np.ldexp(1.0, exponent_M - (_SINGLE_BITS - headroom)), 1.0)
    spread_M = np.ptp(values_SNM, axis=(0, 1))
    tolerance_M = step_M + 8 * np.spacing(np.abs(origin_M) + spread_M)
    single_M = np.zeros(len(origin_M), dtype=bool)
    if headroom < _SINGLE_BITS:
        # One row of cells rules out almost every metric with a fine fraction.
        row_NM = moved_SNM[0] / coarse_M
        single_M = (row_NM == np.rint(row_NM)).all(axis=0)
        for m in np.flatnonzero(single_M):
            scaled_SN = moved_SNM[:, :, m] / coarse_M[m]
            single_M[m] = bool((scaled_SN == np.rint(scaled_SN)).all())
    step_M = np.where(single_M, coarse_M, step_M)
    np.divide(moved_SNM, step_M, out=moved_SNM)
    np.rint(moved_SNM, out=moved_SNM)
    return Lattice(
        steps_SNM=moved_SNM,
        origin_M=origin_M,
        step_M=step_M,
        tolerance_M=tolerance_M,
        single_M=single_M,
    )


def _name(chosen_M: npt.NDArray[np.bool_]) -> str:
    at = [int(m) for m in np.flatnonzero(chosen_M)]
    return f"{at[:10]}{' and more' if len(at) > 10 else ''}"
