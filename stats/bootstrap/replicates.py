"""Replicates of means and what BCa needs beside them. Knows nothing of how they were drawn.

Shapes: B resamples, S seeds (1 where there is no such factor), N units, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replicates:
    """Replicates of one mean."""

    estimate: float
    """The mean on the same lattice as the replicates, so that ties are ties."""
    values_B: FloatArray
    acceleration: float
    standard_deviation: float
    """Closed form, without Monte-Carlo noise."""
    tie_tolerance: float
    """Replicates closer than this to the estimate are equal to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyReplicates:
    """Replicates of many means on the same resamples; fields as in `Replicates`."""

    estimate_M: FloatArray
    values_MB: FloatArray
    acceleration_M: FloatArray
    standard_deviation_M: FloatArray
    tie_tolerance_M: FloatArray

    def one(self, metric: int) -> Replicates:
        return Replicates(
            estimate=float(self.estimate_M[metric]),
            values_B=self.values_MB[metric],
            acceleration=float(self.acceleration_M[metric]),
            standard_deviation=float(self.standard_deviation_M[metric]),
            tie_tolerance=float(self.tie_tolerance_M[metric]),
        )


def jackknife(values_SNM: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Acceleration over both factors, and the standard deviation of the replicates.

    Leaving out one of n things moves a mean by (value - mean) / (n - 1), so Efron's U is
    (n - 1) times that and no mean is taken twice:

        acceleration = sum_f sum_j (d_fj / n_f)^3 / (6 (sum_f sum_j (d_fj / n_f)^2)^1.5)

    over the factors f (seeds, units) with deviations d. With one seed there is one factor.
    """
    num_seeds, num_units, _ = values_SNM.shape
    centred_SNM = values_SNM - values_SNM[0, 0]
    # A power of two, so that squares neither overflow nor vanish and no digit changes.
    scale_M = np.ldexp(1.0, np.frexp(np.abs(centred_SNM).max(axis=(0, 1)))[1])
    centred_SNM /= scale_M
    mean_M = centred_SNM.mean(axis=(0, 1))
    seed_SM = centred_SNM.mean(axis=1) - mean_M
    unit_NM = centred_SNM.mean(axis=0) - mean_M
    cubes_M = _power_sum(seed_SM / num_seeds, 3) + _power_sum(unit_NM / num_units, 3)
    squares_M = _power_sum(seed_SM / num_seeds, 2) + _power_sum(unit_NM / num_units, 2)
    centred_SNM -= seed_SM[:, None]
    centred_SNM -= unit_NM
    centred_SNM -= mean_M
    residual_M = (centred_SNM**2).sum(axis=(0, 1)) / (num_seeds * num_units) ** 2
    varies_M = squares_M > 0
    acceleration_M = np.zeros_like(squares_M)
    np.divide(cubes_M, 6.0 * squares_M**1.5, out=acceleration_M, where=varies_M)
    return acceleration_M, np.sqrt(squares_M + residual_M) * scale_M


def _power_sum(deviation_KM: FloatArray, power: int) -> FloatArray:
    result: FloatArray = (deviation_KM**power).sum(axis=0)
    return result
