"""Crossed (seeds x examples) resamples: the "pigeonhole" bootstrap (Owen 2007, arXiv 0712.1111).

A replicate draws S seeds and N units with replacement and independently, and averages the grid
with the products of the two counts:

    theta*_b = sum_s sum_i w_bs v_bi D[s, i] / (S N)

Two ways to do it for all b, equal to the last bit because sums are exact (see lattice.py):

- by seed: sum_s w_bs (v_b D[s]), S products of a counts matrix with a seed's data; B x S x N is
  never formed.
- by seed counts: few seeds have few count vectors w (126 for S = 5), so resamples with the same w
  share sum_s w_s D[s], and one product does for all seeds.

The replicate variance has the closed form sum A_s^2/S^2 + sum B_i^2/N^2 + sum R_si^2/(S N)^2 (A, B,
R the seed, unit and residual deviations): it counts the residual about three times.

Knows nothing of BCa. Shapes: B resamples, b rows of a chunk, S seeds, N units, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stats.bootstrap.draws import (
    KEEP_BYTES,
    CountArray,
    check_counts,
    check_resamples,
    chunks,
    draw_counts,
)
from stats.bootstrap.lattice import to_lattice
from stats.bootstrap.replicates import FloatArray, ManyReplicates, Replicates, jackknife
from stats.errors import DegenerateDataError, StatsError

Floats = npt.NDArray[np.floating[Any]]

_MIN_METRICS = 8
_MIN_ROWS = 16
"""Rows a distinct vector of seed counts must have on average, for its product to be worth it."""


@dataclass(frozen=True, kw_only=True)
class CrossedResamples:
    """Counts of seeds and units, drawn once per grid shape and used for every metric.

    Two comparisons of the same shape see the same resamples, whatever came before them.
    """

    rng_seed: int | None
    """None where the counts were given."""
    resamples: int = 10_000
    _kept: dict[tuple[int, int], tuple[FloatArray, CountArray]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_resamples(self.resamples)

    @classmethod
    def from_counts(
        cls, seed_counts_BS: npt.ArrayLike, unit_counts_BN: npt.ArrayLike
    ) -> CrossedResamples:
        """Resamples that were drawn elsewhere, as counts of seeds and of units.

        Raises:
            StatsError: a row is no resample, or the two do not have the same number of rows.
        """
        seeds, units = check_counts(seed_counts_BS), check_counts(unit_counts_BN)
        if len(seeds) != len(units):
            raise StatsError(f"{len(seeds)} resamples of seeds, {len(units)} of units.")
        shape = (seeds.shape[1], units.shape[1])
        return cls(
            rng_seed=None,
            resamples=len(seeds),
            _kept={shape: (seeds.astype(np.float64), units)},
        )

    def replicates(self, values_SN: FloatArray) -> Replicates:
        """Bootstrap replicates of the mean of a grid."""
        return self.many(np.asarray(values_SN, dtype=np.float64)[:, :, None]).one(0)

    def many(self, values_SNM: FloatArray) -> ManyReplicates:
        """Bootstrap replicates of the mean of each metric's grid.

        Raises:
            DegenerateDataError: fewer than 2 seeds or 2 units, or a value is not finite.
        """
        values_SNM = np.asarray(values_SNM, dtype=np.float64)
        if values_SNM.ndim != 3 or min(values_SNM.shape[:2]) < 2 or values_SNM.shape[2] < 1:
            raise DegenerateDataError(
                f"Expected at least 2 seeds x 2 units x 1 metric, got shape {values_SNM.shape}."
            )
        num_seeds, num_units, num_metrics = values_SNM.shape
        lattice = to_lattice(values_SNM)
        sums_MB = np.empty((num_metrics, self.resamples))
        for at, kind in lattice.parts():
            steps_SNm: Floats = lattice.steps_SNM[:, :, at].astype(kind)
            if self._few_seed_counts(num_seeds, num_units, steps_SNm.shape[2]):
                sums_MB[at] = self._by_seed_counts(steps_SNm)
            else:
                sums_MB[at] = self._by_seed(steps_SNm)
        acceleration_M, deviation_M = jackknife(values_SNM)
        return ManyReplicates(
            estimate_M=lattice.means_M,
            values_MB=lattice.to_means(sums_MB),
            acceleration_M=acceleration_M,
            standard_deviation_M=deviation_M,
            tie_tolerance_M=lattice.tolerance_M,
        )

    def _few_seed_counts(self, num_seeds: int, num_units: int, num_metrics: int) -> bool:
        kinds = math.comb(2 * num_seeds - 1, num_seeds)
        kept = (num_seeds, num_units) in self._kept or self.resamples * num_units <= KEEP_BYTES
        return kept and num_metrics >= _MIN_METRICS and self.resamples >= _MIN_ROWS * kinds

    def _by_seed(self, steps_SNM: Floats) -> Floats:
        """Integer sums of every resample, a seed at a time."""
        num_seeds, num_units, num_metrics = steps_SNM.shape
        sums_MB = np.empty((num_metrics, self.resamples))
        for rows, seed_counts_bS, unit_counts_bN in self._chunks(num_seeds, num_units):
            counts_bN = unit_counts_bN.astype(steps_SNM.dtype)
            weights_bS = seed_counts_bS.astype(steps_SNM.dtype)
            total_bM = weights_bS[:, :1] * (counts_bN @ steps_SNM[0])
            for s in range(1, num_seeds):
                total_bM += weights_bS[:, s : s + 1] * (counts_bN @ steps_SNM[s])
            sums_MB[:, rows] = total_bM.T
        return sums_MB

    def _by_seed_counts(self, steps_SNM: Floats) -> Floats:
        """Integer sums of every resample, a vector of seed counts at a time."""
        num_seeds, num_units, num_metrics = steps_SNM.shape
        seed_counts_BS, unit_counts_BN = self._all_counts(num_seeds, num_units)
        kinds_KS, kind_B = np.unique(seed_counts_BS, axis=0, return_inverse=True)
        order_B = np.argsort(kind_B, kind="stable")
        ends_K = np.cumsum(np.bincount(kind_B))
        flat_SX = steps_SNM.reshape(num_seeds, num_units * num_metrics)
        sums_BM = np.empty((self.resamples, num_metrics), dtype=steps_SNM.dtype)
        start = 0
        for weights_S, end in zip(kinds_KS.astype(steps_SNM.dtype), ends_K, strict=True):
            rows = order_B[start:end]
            mixed_NM = (weights_S @ flat_SX).reshape(num_units, num_metrics)
            sums_BM[rows] = unit_counts_BN[rows].astype(steps_SNM.dtype) @ mixed_NM
            start = int(end)
        return sums_BM.T

    def _all_counts(self, num_seeds: int, num_units: int) -> tuple[FloatArray, CountArray]:
        if (num_seeds, num_units) not in self._kept:
            for _ in self._chunks(num_seeds, num_units):
                pass
        return self._kept[num_seeds, num_units]

    def _chunks(
        self, num_seeds: int, num_units: int
    ) -> Iterator[tuple[slice, FloatArray, CountArray]]:
        shape = (num_seeds, num_units)
        if shape in self._kept:
            seed_counts_BS, unit_counts_BN = self._kept[shape]
            for rows in chunks(self.resamples):
                yield rows, seed_counts_BS[rows], unit_counts_BN[rows]
            return
        if self.rng_seed is None:
            raise StatsError(
                f"Counts were given for {next(iter(self._kept))}, the grid is {shape}."
            )
        seeds_rng, units_rng = (
            np.random.default_rng(child)
            for child in np.random.SeedSequence(
                [self.rng_seed, num_seeds, num_units, self.resamples]
            ).spawn(2)
        )
        seed_counts_BS = draw_counts(seeds_rng, self.resamples, num_seeds).astype(np.float64)
        parts: list[CountArray] = []
        keep = self.resamples * num_units <= KEEP_BYTES
        for rows in chunks(self.resamples):
            unit_counts_bN = draw_counts(units_rng, rows.stop - rows.start, num_units)
            if keep:
                parts.append(unit_counts_bN)
            yield rows, seed_counts_BS[rows], unit_counts_bN
        if keep:
            self._kept.clear()
            self._kept[shape] = (seed_counts_BS, np.concatenate(parts))
