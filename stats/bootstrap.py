"""Crossed (seeds x examples) BCa bootstrap, its width calibrated to the two-way variance.

A replicate draws S seeds and N units with replacement and independently (the "pigeonhole"
bootstrap, Owen 2007, arXiv 0712.1111) and averages the grid with the products of the two counts:

    theta*_b = sum_s sum_i w_bs v_bi D[s, i] / (S N)

for all b at once: a counts matrix times the grid (one GEMM), then a weighted sum over S. The
replicate variance has the closed form sum A_s^2/S^2 + sum B_i^2/N^2 + sum R_si^2/(S N)^2 (A, B, R
the seed, unit and residual deviations); it counts the residual about three times, so a plain
interval is too wide. `crossed_bca` therefore rescales the distances from the estimate by

    calibration = t(df) se_two_way / (z sd_replicates)

so that BCa gives the skewness and the two-way t gives the width. BCa as in Efron 1987; z0 is a
mid-rank with a tie tolerance, because scores take few distinct values and replicates tie with
the estimate (scipy breaks such ties by rounding error).

Sums are exact: the grid is put on a binary lattice fine enough (about 1e-12 of its range) for
every sum to be an integer below 2^53. So replicates are the same to the last bit for every BLAS,
thread count and batch. Knows nothing of score tables or gates.

Shapes: B resamples, S seeds, N units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from stats.errors import DegenerateDataError
from stats.result import BootstrapInterval
from stats.twoway import TwoWay, two_way

FloatArray = npt.NDArray[np.float64]
CountArray = npt.NDArray[np.unsignedinteger[Any]]

_CHUNK_ROWS = 256
_KEEP_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Replicates:
    """Replicates of a mean and what BCa needs beside them."""

    estimate: float
    """The mean on the same lattice as the replicates, so that ties are ties."""
    values_B: FloatArray
    acceleration: float
    standard_deviation: float
    """Closed form, without Monte-Carlo noise."""
    tie_tolerance: float
    """Replicates closer than this to the estimate are equal to it."""


@dataclass(frozen=True, kw_only=True)
class CrossedResamples:
    """Counts of seeds and units, drawn once per grid shape and used for every metric.

    Two comparisons of the same shape see the same resamples, whatever came before them.
    """

    rng_seed: int
    resamples: int = 10_000
    _kept: dict[tuple[int, int], tuple[FloatArray, CountArray]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def replicates(self, values_SN: FloatArray) -> Replicates:
        """Bootstrap replicates of the mean of a grid."""
        values_SN = np.asarray(values_SN, dtype=np.float64)
        num_seeds, num_units = values_SN.shape
        lattice_SN, origin, step = _lattice(values_SN)
        sums_B = np.empty(self.resamples)
        columns_NS = np.ascontiguousarray(lattice_SN.T)
        for rows, seed_counts_bS, unit_counts_bN in self._chunks(num_seeds, num_units):
            per_seed_bS = unit_counts_bN.astype(np.float64) @ columns_NS
            sums_B[rows] = (per_seed_bS * seed_counts_bS).sum(axis=1)
        cells = num_seeds * num_units
        acceleration, deviation = _jackknife(values_SN)
        return Replicates(
            estimate=origin + float(lattice_SN.sum()) / cells * step,
            values_B=origin + sums_B / cells * step,
            acceleration=acceleration,
            standard_deviation=deviation,
            tie_tolerance=step + 8 * float(np.spacing(abs(origin) + float(np.ptp(values_SN)))),
        )

    def _chunks(
        self, num_seeds: int, num_units: int
    ) -> Iterator[tuple[slice, FloatArray, CountArray]]:
        shape = (num_seeds, num_units)
        if shape in self._kept:
            seed_counts_BS, unit_counts_BN = self._kept[shape]
            for rows in self._slices():
                yield rows, seed_counts_BS[rows], unit_counts_BN[rows]
            return
        seeds_rng, units_rng = (
            np.random.default_rng(child)
            for child in np.random.SeedSequence(
                [self.rng_seed, num_seeds, num_units, self.resamples]
            ).spawn(2)
        )
        seed_counts_BS = _counts(seeds_rng, self.resamples, num_seeds).astype(np.float64)
        parts: list[CountArray] = []
        keep = self.resamples * num_units <= _KEEP_BYTES
        for rows in self._slices():
            unit_counts_bN = _counts(units_rng, rows.stop - rows.start, num_units)
            if keep:
                parts.append(unit_counts_bN)
            yield rows, seed_counts_BS[rows], unit_counts_bN
        if keep:
            self._kept.clear()
            self._kept[shape] = (seed_counts_BS, np.concatenate(parts))

    def _slices(self) -> Iterator[slice]:
        for start in range(0, self.resamples, _CHUNK_ROWS):
            yield slice(start, min(start + _CHUNK_ROWS, self.resamples))


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


def bca_interval(
    values_B: FloatArray,
    estimate: float,
    acceleration: float,
    *,
    level: float = 0.95,
    tie_tolerance: float = 0.0,
    calibration: float = 1.0,
) -> BootstrapInterval:
    """BCa limits from replicates, with the Monte-Carlo standard error of each.

    With `tie_tolerance=0` and `calibration=1` this is the interval of scipy.stats.bootstrap.

    Raises:
        DegenerateDataError: all replicates lie on one side of the estimate, or are equal to it.
    """
    num = len(values_B)
    below = np.count_nonzero(values_B < estimate - tie_tolerance)
    at_most = np.count_nonzero(values_B <= estimate + tie_tolerance)
    share = (below + at_most) / (2 * num)
    if not 0.0 < share < 1.0 or np.ptp(values_B) == 0.0:
        raise DegenerateDataError(
            f"{num} replicates, of which {below} lie below the estimate and {num - at_most} "
            "above: BCa is not defined."
        )
    z0 = float(ndtri(share))
    sorted_B = np.sort(values_B)
    limits: list[tuple[float, float]] = []
    for z in (float(ndtri(0.5 - level / 2)), float(ndtri(0.5 + level / 2))):
        shifted = z0 + z
        stretch = 1.0 - acceleration * shifted
        tail = float(ndtr(z0 + shifted / stretch)) if stretch > 0 else float(z > 0)
        limit = float(np.quantile(sorted_B, tail))
        slope = 1.0 + 1.0 / stretch**2 if stretch > 0 else 1.0
        error = _limit_error(sorted_B, tail, share, z0, slope)
        limits.append((estimate + calibration * (limit - estimate), calibration * error))
    (low, low_error), (high, high_error) = limits
    return BootstrapInterval(
        low=low,
        high=high,
        low_error=low_error,
        high_error=high_error,
        level=level,
        resamples=num,
        calibration=calibration,
        method="crossed BCa" if calibration == 1.0 else "crossed BCa, calibrated to two-way width",
    )


def _limit_error(sorted_B: FloatArray, tail: float, share: float, z0: float, slope: float) -> float:
    """Monte-Carlo standard deviation of a BCa limit (delta method).

    The limit is the empirical quantile at a tail probability that itself depends on the share
    of replicates below the estimate. Both are means of B indicators; with f the density at the
    limit and g = d tail / d share,

        Var = (tail (1-tail) + g^2 share (1-share) - 2 g (min(tail, share) - tail share)) / (B f^2)
    """
    num = len(sorted_B)
    tail = min(max(tail, 0.5 / num), 1 - 0.5 / num)
    half = 2.0 * math.sqrt(tail * (1 - tail) / num)
    lower, upper = max(tail - half, 0.0), min(tail + half, 1.0)
    spread = float(np.quantile(sorted_B, upper) - np.quantile(sorted_B, lower)) / (upper - lower)
    density_tail = math.exp(-0.5 * float(ndtri(tail)) ** 2)
    g = density_tail / math.exp(-0.5 * z0**2) * slope
    joint = min(tail, share) - tail * share
    variance = (tail * (1 - tail) + g * g * share * (1 - share) - 2 * g * joint) / num
    return spread * math.sqrt(max(variance, 0.0))


def _counts(rng: np.random.Generator, num_rows: int, size: int) -> CountArray:
    """How often each of `size` things was drawn in `size` draws, a row a resample."""
    draws_RS = rng.integers(0, size, size=(num_rows, size), dtype=np.int64)
    draws_RS += np.arange(num_rows, dtype=np.int64)[:, None] * size
    counts = np.bincount(draws_RS.ravel(), minlength=num_rows * size).reshape(num_rows, size)
    kind: type[np.unsignedinteger[Any]] = np.uint8 if int(counts.max()) < 256 else np.uint16
    return counts.astype(kind)


def _lattice(values_SN: FloatArray) -> tuple[FloatArray, float, float]:
    """The grid as integers (stored as float64), with origin and step: value = origin + k step."""
    origin = float(values_SN[0, 0])
    moved_SN = values_SN - origin
    largest = float(np.abs(moved_SN).max())
    if largest == 0.0:
        return moved_SN, origin, 1.0
    bits = 52 - math.ceil(math.log2(values_SN.size))
    step = 2.0 ** (math.frexp(largest)[1] - bits)
    return np.rint(moved_SN / step), origin, step


def _jackknife(values_SN: FloatArray) -> tuple[float, float]:
    """Acceleration over both factors, and the standard deviation of the replicates."""
    num_seeds, num_units = values_SN.shape
    centred_SN = values_SN - values_SN[0, 0]
    mean = float(centred_SN.mean())
    seed_S = centred_SN.mean(axis=1) - mean
    unit_N = centred_SN.mean(axis=0) - mean
    residual_SN = centred_SN - seed_S[:, None] - unit_N[None, :] - mean
    cubes = float(np.sum((seed_S / num_seeds) ** 3) + np.sum((unit_N / num_units) ** 3))
    squares = float(np.sum((seed_S / num_seeds) ** 2) + np.sum((unit_N / num_units) ** 2))
    residual = float(np.sum(residual_SN**2)) / values_SN.size**2
    acceleration = cubes / (6.0 * squares**1.5) if squares > 0 else 0.0
    return acceleration, math.sqrt(squares + residual)
