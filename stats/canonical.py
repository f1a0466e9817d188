"""Validates a long table of scores and puts it into its one order.

Knows columns and cells, no grids and no statistics. Text is never taken for a number: a column of
values that arrived as text is refused, with the first entry that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from stats.errors import DuplicateCellError, NonFiniteScoreError, ScoreError

COLUMNS = ("arm", "seed", "example_id", "cluster_id", "metric", "value")
TEXT_COLUMNS = ("metric", "arm", "example_id", "cluster_id")

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LARGEST_SEED = 2**53


def canonical(frame: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ScoreError(f"Missing columns {missing}; expected {list(COLUMNS)}.")
    columns: dict[str, object] = {}
    order: dict[str, IntArray] = {}
    for name in TEXT_COLUMNS:
        if bool(frame[name].isna().any()):
            raise ScoreError(f"Column {name!r} has empty entries.")
        codes, names = ranked(frame[name])
        order[name] = codes
        columns[name] = pd.Series(pd.Index(names, dtype="str").take(codes), name=name)
    seeds = _seeds(frame["seed"])
    values = _values(frame)
    rows = np.lexsort((order["example_id"], seeds, order["arm"], order["metric"]))
    same = np.ones(max(len(rows) - 1, 0), dtype=bool)
    for key in (order["example_id"], seeds, order["arm"], order["metric"]):
        same &= key[rows][1:] == key[rows][:-1]
    if same.any():
        rows = _collapse(rows, same, values, order["cluster_id"], columns, seeds)
    columns["seed"], columns["value"] = seeds, values
    sorted_frame = pd.DataFrame({name: columns[name] for name in COLUMNS})
    return sorted_frame.iloc[rows].reset_index(drop=True)


def _collapse(
    rows: npt.NDArray[np.intp],
    same: npt.NDArray[np.bool_],
    values: FloatArray,
    clusters: IntArray,
    columns: Mapping[str, object],
    seeds: IntArray,
) -> npt.NDArray[np.intp]:
    """Keeps the first of each group of equal cells; raises where they disagree."""
    first, second = rows[:-1][same], rows[1:][same]
    unequal = (values[first] != values[second]) | (clusters[first] != clusters[second])
    if unequal.any():
        at, other = int(first[np.argmax(unequal)]), int(second[np.argmax(unequal)])
        cell = {name: cast(pd.Series, columns[name]).iloc[at] for name in TEXT_COLUMNS[:3]}
        raise DuplicateCellError(
            f"{int(unequal.sum())} cells came twice and disagree; first: {cell}, "
            f"seed {int(seeds[at])}: values {float(values[at])!r} and {float(values[other])!r}, "
            f"clusters {cast(pd.Series, columns['cluster_id']).iloc[at]!r} and "
            f"{cast(pd.Series, columns['cluster_id']).iloc[other]!r}."
        )
    return rows[np.concatenate(([True], ~same))]


def ranked(column: pd.Series) -> tuple[IntArray, list[str]]:
    """Rank of each entry among the sorted distinct entries (as text), and those entries."""
    codes, uniques = pd.factorize(column)
    texts = [str(entry) for entry in uniques]
    names = sorted(set(texts))
    rank = {name: at for at, name in enumerate(names)}
    lookup = np.array([rank[text] for text in texts], dtype=np.int64)
    return lookup[codes] if len(names) else codes.astype(np.int64), names


def _seeds(column: pd.Series) -> IntArray:
    seeds = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.abs(seeds) <= _LARGEST_SEED) | (seeds != np.floor(seeds))
    if bad.any():
        raise ScoreError(
            f"seed: expected integers, at most 2^53 in size, got "
            f"{column.iloc[int(np.argmax(bad))]}."
        )
    return seeds.astype(np.int64)


def _values(frame: pd.DataFrame) -> FloatArray:
    column = frame["value"]
    _refuse_what_is_no_number(frame)
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise ScoreError(
            f"value: expected numbers, got a column of type {column.dtype}: {error}."
        ) from None
    bad = ~np.isfinite(values)
    if bad.any():
        at = int(np.argmax(bad))
        raise NonFiniteScoreError(
            f"{int(bad.sum())} values are not finite; first: {_cell(frame, at)} is {values[at]}. "
            "Score a failed item, or run it again."
        )
    return values + 0.0


def _refuse_what_is_no_number(frame: pd.DataFrame) -> None:
    """Text, dates and complex numbers would all convert, silently, to something."""
    column = frame["value"]
    kind = column.dtype
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind):
        if pd.api.types.is_complex_dtype(kind):
            raise ScoreError(f"value: expected real numbers, got a column of type {kind}.")
        return
    odd = [
        at
        for at, value in enumerate(column)
        if not (isinstance(value, Real | np.bool_) or value is None or value is pd.NA)
    ]
    if odd:
        # In a file one word makes text of all figures: it is the word that must be found.
        at = next((at for at in odd if not _reads_as_number(column.iloc[at])), odd[0])
        value = column.iloc[at]
        raise ScoreError(
            f"value: expected numbers, got {value!r} of type {type(value).__name__} at "
            f"{_cell(frame, at)}. Convert the column before it becomes a score."
        )


def _reads_as_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _cell(frame: pd.DataFrame, at: int) -> str:
    row = frame.iloc[at]
    return (
        f"metric {row['metric']!r}, arm {row['arm']!r}, seed {row['seed']}, example "
        f"{row['example_id']!r}"
    )
