"""Counts of a resample: how often each unit (or seed) was drawn.

A resample of N units is a row of counts that add up to N, and the mean over it is that row times
the data. Rows come in a fixed order from one stream, so that every metric sees the same resamples.
Knows nothing of values. Shapes: B resamples, b rows of a chunk, S seeds, N units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from stats.errors import StatsError

CountArray = npt.NDArray[np.unsignedinteger[Any]]
IndexArray = npt.NDArray[np.integer[Any]]

CHUNK_ROWS = 256
KEEP_BYTES = 64 << 20
"""Counts are kept for the next metric if a byte a count takes no more than this."""

_ROW_BY_ROW = 64


def chunks(resamples: int) -> Iterator[slice]:
    """Rows 0..B in chunks that fit the cache beside the data."""
    for start in range(0, resamples, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, resamples))


def draw_counts(
    rng: np.random.Generator, num_rows: int, size: int, kind: npt.DTypeLike = np.int32
) -> CountArray:
    """Counts of `size` draws out of `size` things, a row a resample.

    Args:
        kind: integer type of the draws. int32 and int64 give the same stream; uint16 another one,
            a third faster, for at most 65,535 things.
    """
    return count(rng.integers(0, size, size=(num_rows, size), dtype=kind), size)


def count(draws_RN: IndexArray, size: int) -> CountArray:
    """Counts of drawn indices. A unit that comes 256 times has probability below 1e-500."""
    num_rows = len(draws_RN)
    if size >= _ROW_BY_ROW:
        counts_RN = np.empty((num_rows, size), dtype=np.uint8)
        for row in range(num_rows):
            counts_RN[row] = np.bincount(draws_RN[row], minlength=size)
        return counts_RN
    offset_RN = draws_RN + np.arange(num_rows, dtype=np.int64)[:, None] * size
    flat = np.bincount(offset_RN.ravel(), minlength=num_rows * size)
    return flat.reshape(num_rows, size).astype(np.uint8)


def check_counts(counts: npt.ArrayLike) -> CountArray:
    """Counts that were drawn elsewhere, once every row is found to be a resample.

    Raises:
        StatsError: a row does not add up to the number of things that it counts.
    """
    found = np.asarray(counts)
    if found.ndim != 2 or found.dtype.kind not in "iu" or bool((found < 0).any()):
        raise StatsError(
            f"Expected counts of shape resamples x units, got shape {found.shape} of {found.dtype}."
        )
    totals = found.sum(axis=1)
    wrong = np.flatnonzero(totals != found.shape[1])
    if len(wrong):
        raise StatsError(
            f"Row {int(wrong[0])} of the counts adds up to {int(totals[wrong[0]])}, not to its "
            f"{found.shape[1]} units."
        )
    return found.astype(np.uint32)


def check_resamples(resamples: int) -> None:
    """Refuses a number of resamples from which no quantile can be read."""
    if resamples < 2:
        raise StatsError(f"resamples must be at least 2, got {resamples}.")


def small_type(size: int) -> npt.DTypeLike:
    """The quickest integer type that holds indices of `size` things."""
    return np.uint16 if size <= np.iinfo(np.uint16).max else np.int32
