"""Asymptotic confidence sequence for the running mean of a stream of examples.

Valid at all times at once, so a stream may be watched and stopped at will (Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas 2021, arXiv 2103.06476, the Gaussian-mixture boundary):

    m_t +- s_t sqrt( 2 (t rho^2 + 1) / (t^2 rho^2)  log( sqrt(t rho^2 + 1) / alpha ) )

with the running mean m_t and standard deviation s_t, and rho chosen so that the boundary is (to
0.01 %) tightest at one sample size T: rho^2 = (-2 log alpha + log(1 - 2 log alpha)) / T. At T it
is 1.55 times as wide as the fixed-sample normal interval at 95 %. Asymptotic: it
starts at `first` examples, and where values depend on the past it covers the running mean of
their conditional expectations. It speaks of examples of this stream; seeds are not in it, and
with five of them no sequence of this kind is of use. Knows no missions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stats.errors import DegenerateDataError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConfidenceSequence:
    """Running mean with limits that hold at all times at once."""

    times_T: npt.NDArray[np.int64]
    """Examples seen."""
    mean_T: FloatArray
    low_T: FloatArray
    high_T: FloatArray
    level: float
    tightest_at: int

    @property
    def excludes_zero_from(self) -> int | None:
        """Examples after which 0 first lay outside, or None."""
        outside = np.flatnonzero((self.low_T > 0.0) | (self.high_T < 0.0))
        return int(self.times_T[outside[0]]) if len(outside) else None


def confidence_sequence(
    values_T: npt.ArrayLike, *, level: float = 0.95, first: int = 50, tightest_at: int | None = None
) -> ConfidenceSequence:
    """The sequence over a stream in its order.

    Args:
        first: examples before the sequence starts; the normal approximation needs some.
        tightest_at: sample size at which it is narrowest; the stream's length by default. It
            must be fixed before the stream is seen.

    Raises:
        DegenerateDataError: fewer than `first` values, values that are not finite, or a stream
            without any variation at its start.
    """
    values = np.asarray(values_T, dtype=np.float64)
    if values.ndim != 1 or len(values) < first or first < 2:
        raise DegenerateDataError(
            f"A stream of shape {values.shape} cannot start at {first} examples (at least 2)."
        )
    if not np.isfinite(values).all():
        raise DegenerateDataError("The stream holds NaN or infinite values.")
    best = len(values) if tightest_at is None else tightest_at
    times = np.arange(1, len(values) + 1)
    # Moments around the first value: a stream far from zero keeps its digits.
    moved = values - values[0]
    mean = np.cumsum(moved) / times
    variance = np.maximum(np.cumsum(moved**2) / times - mean**2, 0.0)
    kept = slice(first - 1, None)
    if float(variance[first - 1]) <= 0.0:
        raise DegenerateDataError(
            f"The first {first} values of the stream are all {values[0]!r}: no variance yet."
        )
    factor = boundary(times[kept], level=level, tightest_at=best)
    half = np.sqrt(variance[kept]) * factor
    centre = mean[kept] + values[0]
    return ConfidenceSequence(
        times_T=times[kept],
        mean_T=centre,
        low_T=centre - half,
        high_T=centre + half,
        level=level,
        tightest_at=best,
    )


def boundary(times_T: npt.ArrayLike, *, level: float, tightest_at: int) -> FloatArray:
    """Half-width over the standard deviation, at each number of examples."""
    if not 0.0 < level < 1.0 or tightest_at < 1:
        raise DegenerateDataError(f"level {level}, tightest_at {tightest_at}: out of range.")
    times = np.asarray(times_T, dtype=np.float64)
    alpha = 1.0 - level
    rate = (-2.0 * math.log(alpha) + math.log(1.0 - 2.0 * math.log(alpha))) / tightest_at
    grown = times * rate + 1.0
    found: FloatArray = np.sqrt(2.0 * grown / (times**2 * rate) * np.log(np.sqrt(grown) / alpha))
    return found
