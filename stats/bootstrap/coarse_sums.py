"""Exact distribution of resampled sums whose values lie on a coarse lattice.

The probabilities of the sum of N draws of integers are the discrete Fourier transform of the
data's shares, to the power N, transformed back. A window of the sum's likely range is enough: what
lies outside is folded in, and by Bennett's inequality it is less than 1e-11.

Knows nothing of BCa. Shapes: N units, M metrics, m metrics of a group, P points of the window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, rfft

from stats.bootstrap.fine_sums import NEGLIGIBLE, half_periods, whole_power

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]

LARGEST_WINDOW = 4096
"""Points. Lattices that need more are fine enough for `fine_sums.py`."""
_MOST_VALUES = 256
_SAME = 1e-9
"""Differences below this share of the range are rounding."""
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class CoarseSums:
    """Probabilities of sums of N draws, those with windows of one size in one group."""

    groups: tuple[_Group, ...]
    on_lattice_M: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, unit_MN: FloatArray) -> CoarseSums:
        """The sums of those rows (mean 0, sum of squares 1) that lie on a coarse lattice."""
        sorted_MN = np.sort(unit_MN, axis=1)
        kinds_M = 1 + np.count_nonzero(sorted_MN[:, 1:] != sorted_MN[:, :-1], axis=1)
        half_M = half_periods(np.maximum(-sorted_MN[:, 0], sorted_MN[:, -1]))
        by_size: dict[int, dict[int, tuple[float, IndexArray]]] = {}
        for m in np.flatnonzero((kinds_M > 1) & (kinds_M <= _MOST_VALUES)).tolist():
            gap_N = sorted_MN[m] - sorted_MN[m, 0]
            step = _common_step(gap_N[np.r_[True, gap_N[1:] != gap_N[:-1]]])
            needed = 2 * float(half_M[m]) / step + 2
            if needed <= LARGEST_WINDOW:
                steps_N = np.rint(gap_N / step).astype(np.intp)
                by_size.setdefault(2 ** math.ceil(math.log2(needed)), {})[m] = (step, steps_N)
        on_lattice_M = np.zeros(len(unit_MN), dtype=bool)
        on_lattice_M[[m for members in by_size.values() for m in members]] = True
        groups = tuple(_Group.of(size, members) for size, members in by_size.items())
        return cls(groups=groups, on_lattice_M=on_lattice_M)

    def mid_share(self) -> FloatArray:
        """Probability of a sum below the data's own, ties counted half; 0.5 on no lattice."""
        found_M = np.full(len(self.on_lattice_M), 0.5)
        for group in self.groups:
            centre = group.cumulated_mP.shape[1] // 2
            found_M[group.at] = group.cumulated_mP[:, centre - 1 : centre + 1].mean(axis=1)
        return found_M

    def quantile(self, probability_M: FloatArray) -> FloatArray:
        """The least point with the metric's probability up to it; NaN outside (0, 1)."""
        found_M = np.full(len(self.on_lattice_M), np.nan)
        for group in self.groups:
            goal_m = probability_M[group.at]
            below_m = np.count_nonzero(group.cumulated_mP < (goal_m - _ROUNDING)[:, None], axis=1)
            found_m = (below_m - group.cumulated_mP.shape[1] // 2) * group.step_m
            inside_m = np.minimum(goal_m, 1 - goal_m) > 10 * NEGLIGIBLE
            found_M[group.at] = np.where(inside_m, found_m, np.nan)
        return found_M


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Metrics whose windows have the same number of points."""

    at: IndexArray
    step_m: FloatArray
    """Distance of two points, in standard deviations of the sum."""
    cumulated_mP: FloatArray
    """Probability of a sum up to and with each point; the data's own sum is point P // 2."""

    @classmethod
    def of(cls, size: int, members: Mapping[int, tuple[float, IndexArray]]) -> _Group:
        steps_mN = np.array([steps_N for _, steps_N in members.values()])
        num_metrics, num_units = steps_mN.shape
        # The data's own sum goes to the middle: draw i adds its steps and an N-th of the way there.
        to_middle_m = size // 2 - steps_mN.sum(axis=1)
        offset_m = np.arange(num_metrics)[:, None] * size
        counts = np.bincount((steps_mN % size + offset_m).ravel(), minlength=num_metrics * size)
        spectrum = whole_power(rfft(counts.reshape(num_metrics, size) / num_units), num_units)
        turn = np.outer(to_middle_m % size, np.arange(spectrum.shape[1])) % size
        spectrum *= np.exp(-2j * np.pi / size * turn)
        cumulated_mP = np.cumsum(np.maximum(irfft(spectrum, size), 0.0), axis=1)
        cumulated_mP /= cumulated_mP[:, -1:]
        return cls(
            at=np.array(list(members)),
            step_m=np.array([step for step, _ in members.values()]),
            cumulated_mP=cumulated_mP,
        )


def _common_step(gaps_V: FloatArray) -> float:
    """The largest step of which all gaps are multiples (Euclid, with a tolerance)."""
    tolerance = _SAME * float(gaps_V[-1])
    step = 0.0
    for gap in gaps_V[1:].tolist():
        rest = gap
        while rest > tolerance:
            step, rest = rest, step % rest if step > 0 else 0.0
            # 2.9999 % 1 is almost 1, not almost 0.
            if step - rest <= tolerance:
                rest = 0.0
    return step
