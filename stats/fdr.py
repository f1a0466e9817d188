"""False discovery rate over a family: Benjamini-Hochberg, Benjamini-Yekutieli, FCR intervals.

Benjamini and Hochberg 1995; Benjamini and Yekutieli 2001 (any dependence); false coverage-
statement rate, Benjamini and Yekutieli 2005. Knows only p-values; a NaN is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stats.errors import StatsError

FloatArray = npt.NDArray[np.float64]


def benjamini_hochberg(p_values: Sequence[float]) -> FloatArray:
    """Adjusted p-values (q-values), in the order given."""
    return _step_up(_checked(p_values), 1.0)


def benjamini_yekutieli(p_values: Sequence[float]) -> FloatArray:
    """Adjusted p-values that hold under any dependence; costs power."""
    p = _checked(p_values)
    return _step_up(p, float(np.sum(1.0 / np.arange(1, len(p) + 1))))


def fcr_level(num_selected: int, family_size: int, q: float = 0.05) -> float:
    """Level of the intervals of the selected: 1 - R q / m."""
    if not 0 <= num_selected <= family_size or family_size < 1:
        raise StatsError(f"{num_selected} selected of a family of {family_size}.")
    return 1.0 - max(num_selected, 1) * q / family_size


def _step_up(p: FloatArray, penalty: float) -> FloatArray:
    size = len(p)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * size * penalty / np.arange(1, size + 1)
    adjusted = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    result = np.empty(size)
    result[order] = adjusted
    return result


def _checked(p_values: Sequence[float]) -> FloatArray:
    p = np.asarray(p_values, dtype=np.float64)
    bad = ~((p >= 0.0) & (p <= 1.0))
    if bad.any():
        at = int(np.argmax(bad))
        raise StatsError(f"p-value number {at + 1} is {p[at]!r}; expected 0 <= p <= 1.")
    return p
