"""Resamples of units alone: every metric of a table N x M on the same counts, as one GEMM.

Right where units are the only source of variation that the claim is about (test items of one
fixed checkpoint, seed means of one fixed test set). For a claim about a method use the crossed
resamples: over examples only, an interval is far too narrow as soon as seeds differ.

Knows nothing of BCa. Shapes: B resamples, b rows of a chunk, N units, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stats.bootstrap.draws import (
    KEEP_BYTES,
    CountArray,
    check_counts,
    check_resamples,
    chunks,
    draw_counts,
    small_type,
)
from stats.bootstrap.lattice import to_lattice
from stats.bootstrap.replicates import FloatArray, ManyReplicates, jackknife
from stats.errors import DegenerateDataError, StatsError


@dataclass(frozen=True, kw_only=True)
class OneWayResamples:
    """Counts of units, drawn once per number of units and used for every metric."""

    rng_seed: int | None
    """None where the counts were given."""
    resamples: int = 10_000
    _kept: dict[int, CountArray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_resamples(self.resamples)

    @classmethod
    def from_counts(cls, counts_BN: npt.ArrayLike) -> OneWayResamples:
        """Resamples that were drawn elsewhere, as counts that add up to N in every row.

        Raises:
            StatsError: a row is no resample of N units.
        """
        counts = check_counts(counts_BN)
        return cls(rng_seed=None, resamples=len(counts), _kept={counts.shape[1]: counts})

    def many(self, values_NM: FloatArray) -> ManyReplicates:
        """Replicates of the mean of each column.

        Raises:
            DegenerateDataError: fewer than 2 units, or a value is not finite.
        """
        values_NM = np.asarray(values_NM, dtype=np.float64)
        if values_NM.ndim != 2 or values_NM.shape[0] < 2 or values_NM.shape[1] < 1:
            raise DegenerateDataError(
                f"Expected at least 2 units x 1 metric, got shape {values_NM.shape}: from one "
                "unit nothing is known of a new one."
            )
        lattice = to_lattice(values_NM[None])
        parts = [
            (at, np.ascontiguousarray(lattice.steps_SNM[0][:, at], dtype=kind))
            for at, kind in lattice.parts()
        ]
        sums_MB = np.empty((values_NM.shape[1], self.resamples))
        for rows, counts_bN in self._chunks(values_NM.shape[0]):
            for at, columns_Nm in parts:
                sums_MB[at, rows] = (counts_bN.astype(columns_Nm.dtype) @ columns_Nm).T
        acceleration_M, deviation_M = jackknife(values_NM[None])
        return ManyReplicates(
            estimate_M=lattice.means_M,
            values_MB=lattice.to_means(sums_MB),
            acceleration_M=acceleration_M,
            standard_deviation_M=deviation_M,
            tie_tolerance_M=lattice.tolerance_M,
        )

    def _chunks(self, num_units: int) -> Iterator[tuple[slice, CountArray]]:
        if num_units in self._kept:
            for rows in chunks(self.resamples):
                yield rows, self._kept[num_units][rows]
            return
        if self.rng_seed is None:
            raise StatsError(
                f"The counts that were given are of {next(iter(self._kept))} units, the "
                f"values of {num_units}."
            )
        rng = np.random.default_rng([self.rng_seed, num_units, self.resamples])
        keep = self.resamples * num_units <= KEEP_BYTES
        parts: list[CountArray] = []
        for rows in chunks(self.resamples):
            counts_bN = draw_counts(
                rng, rows.stop - rows.start, num_units, kind=small_type(num_units)
            )
            if keep:
                parts.append(counts_bN)
            yield rows, counts_bN
        if keep:
            self._kept.clear()
            self._kept[num_units] = np.concatenate(parts)
