"""Resamples of scores with few distinct values, drawn as multinomial counts of the values.

Units with the same scores are exchangeable, so a resample is known by how many units of each kind
it holds: Multinomial(N, share of each kind). For a binary score that is one binomial number a
resample instead of N draws. Same distribution as drawing units, other random numbers; each metric
draws its own, so with more than a few metrics the shared counts of `OneWayResamples` or
`CrossedResamples` are quicker.

Knows nothing of BCa. Shapes: B resamples, K kinds of units, S seeds, N units, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stats.bootstrap.draws import check_resamples, draw_counts
from stats.bootstrap.lattice import to_lattice
from stats.bootstrap.replicates import FloatArray, ManyReplicates, jackknife
from stats.errors import DegenerateDataError, StatsError


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryResamples:
    """Multinomial resamples of the kinds of units, of a table N x M or a grid S x N x M."""

    rng_seed: int
    resamples: int = 10_000
    max_kinds: int = 256
    """More distinct units than this are refused: they gain nothing from being collapsed."""

    def __post_init__(self) -> None:
        check_resamples(self.resamples)

    def many(self, values: FloatArray) -> ManyReplicates:
        """Replicates of the mean of each metric.

        With three axes seeds are resampled too (crossed), with two only units are. A metric's
        replicates do not depend on the other metrics.

        Raises:
            DegenerateDataError: fewer than 2 units (or 2 seeds), or a value is not finite.
            StatsError: a metric has more than `max_kinds` distinct units.
        """
        values = np.asarray(values, dtype=np.float64)
        crossed = values.ndim == 3
        values_SNM = values if crossed else values[None]
        if values_SNM.ndim != 3 or min(values.shape[:-1]) < 2 or values.shape[-1] < 1:
            raise DegenerateDataError(
                "Expected at least 2 units x 1 metric or 2 seeds x 2 units x 1 metric, got shape "
                f"{values.shape}."
            )
        lattice = to_lattice(values_SNM)
        sums_MB = np.empty((values_SNM.shape[2], self.resamples))
        for m in range(values_SNM.shape[2]):
            sums_MB[m] = self._sums(lattice.steps_SNM[:, :, m], m, crossed)
        acceleration_M, deviation_M = jackknife(values_SNM)
        return ManyReplicates(
            estimate_M=lattice.means_M,
            values_MB=lattice.to_means(sums_MB),
            acceleration_M=acceleration_M,
            standard_deviation_M=deviation_M,
            tie_tolerance_M=lattice.tolerance_M,
        )

    def _sums(self, steps_SN: FloatArray, metric: int, crossed: bool) -> FloatArray:
        num_seeds, num_units = steps_SN.shape
        kinds_SK, sizes_K = np.unique(steps_SN, axis=1, return_counts=True)
        if len(sizes_K) > self.max_kinds:
            raise StatsError(
                f"Metric {metric} has {len(sizes_K)} distinct units, more than max_kinds = "
                f"{self.max_kinds}: resample the units themselves."
            )
        seeds_rng, units_rng = (
            np.random.default_rng(child)
            for child in np.random.SeedSequence(
                [self.rng_seed, num_seeds, num_units, self.resamples]
            ).spawn(2)
        )
        counts_BK = units_rng.multinomial(num_units, sizes_K / num_units, size=self.resamples)
        per_seed_BS = counts_BK.astype(np.float64) @ kinds_SK.T
        if not crossed:
            return np.ascontiguousarray(per_seed_BS[:, 0])
        weights_BS = draw_counts(seeds_rng, self.resamples, num_seeds)
        sums_B: FloatArray = (weights_BS * per_seed_BS).sum(axis=1)
        return sums_B
