"""A long table in CSV, Parquet or JSON lines: arm, seed, example_id, [cluster_id], [metric], value.

A table of one arm and seed may leave those two columns out and have them said by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stats.errors import StatsError
from stats.scores import COLUMNS
from stats.sources.base import Source, SourceError, SourceOptions, json_lines
from stats.tables import as_scores

NAME = "table"
_SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")


def matches(path: Path) -> bool:
    return path.suffix in _SUFFIXES


def read(path: Path, options: SourceOptions) -> Source:
    """Rows as they stand; nothing is dropped and nothing is filled in."""
    columns = dict(options.columns)
    if options.cluster is not None:
        columns.setdefault("cluster_id", options.cluster)
    frame = _frame(path, columns)
    for name, value in (("arm", options.arm), ("seed", options.seed)):
        column = options.columns.get(name, name)
        if value is not None and column in frame.columns:
            raise SourceError(
                f"{path}: has a column {column!r} and was given the {name} {value!r} as well."
            )
        if value is not None:
            frame[column] = value
    only = options.metrics[0] if options.metrics and len(options.metrics) == 1 else None
    try:
        scores = as_scores(frame, metric=only, columns=columns)
    except StatsError as error:
        raise SourceError(f"{path}: {error}") from None
    if not len(scores):
        raise SourceError(f"{path}: holds no scores.")
    return Source(path=path, format=NAME, scores=scores)


def _frame(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            # Ids are text: "007" and "7" are two examples.
            ids = [columns.get(name, name) for name in COLUMNS if name not in ("seed", "value")]
            return pd.read_csv(path, dtype=dict.fromkeys(ids, "str"))
        return pd.DataFrame([row for _, row in json_lines(path)])
    except SourceError:
        raise
    except (OSError, ValueError) as error:  # pandas and pyarrow raise subclasses of ValueError
        text = " ".join(str(error).split())
        raise SourceError(f"{path}: cannot be read as {path.suffix[1:]}: {text}") from None
