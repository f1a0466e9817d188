"""Turns what people have (a pandas long table, arrays, a dict of arrays) into a `ScoreTable`.

Knows no gate and no file format. Nothing is guessed: a column that is not there is asked for by
name, and arrays must agree in shape.

Shapes: S seeds, N examples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Sized

import numpy as np
import numpy.typing as npt
import pandas as pd

from stats.errors import ScoreError
from stats.scores import COLUMNS, ScoreTable

Scores = ScoreTable | pd.DataFrame | Mapping[str, npt.ArrayLike]

_OPTIONAL = ("cluster_id", "metric")
DEFAULT_METRIC = "score"
"""Name of the metric of tables and arrays that name none."""


def as_scores(
    scores: Scores,
    *,
    metric: str | None = None,
    columns: Mapping[str, str] | None = None,
    clusters: Sequence[str] | None = None,
) -> ScoreTable:
    """A validated table of scores.

    Args:
        scores: a `ScoreTable`; a long table with the columns arm, seed, example_id and value, and
            cluster_id and metric where there are any; or arm -> array of shape (S, N), paired by
            position: row s is one seed, column i one example in every arm.
        metric: name of the metric where `scores` does not name one.
        columns: our name -> the table's name, such as {"arm": "model", "value": "correct"}.
        clusters: one label an example (arrays only): examples of one document are not independent.

    Raises:
        ScoreError: one line that names the column or arm, what came and what was expected.
    """
    if columns is not None and not isinstance(columns, Mapping):
        raise ScoreError(
            f"columns: got {type(columns).__name__} {_short(columns)}; expected a dict of our name "
            f"-> the table's name, of {list(COLUMNS)}."
        )
    if clusters is not None and (isinstance(clusters, str) or not isinstance(clusters, Sized)):
        raise ScoreError(
            f"clusters: got {type(clusters).__name__} {_short(clusters)}; expected a list with one "
            "label an example."
        )
    if isinstance(scores, ScoreTable):
        if columns or clusters is not None:
            raise ScoreError("A ScoreTable has its columns and clusters already.")
        return scores
    if isinstance(scores, pd.DataFrame):
        if clusters is not None:
            raise ScoreError("clusters: a long table names them in its column cluster_id.")
        return ScoreTable(_long(scores, metric, dict(columns or {})))
    if not isinstance(scores, Mapping):
        raise ScoreError(
            f"scores: got {type(scores).__name__} {_short(scores)}; expected a ScoreTable, a "
            "pandas long table, or a dict of arm -> array of shape (seeds, examples)."
        )
    if columns:
        raise ScoreError("columns: only a long table has columns, arrays were given.")
    return _from_arrays(scores, metric or DEFAULT_METRIC, clusters)


def _long(frame: pd.DataFrame, metric: str | None, columns: dict[str, str]) -> pd.DataFrame:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise ScoreError(f"columns: unknown {unknown}; known: {list(COLUMNS)}.")
    here: list[Hashable] = list(frame.columns)
    found: dict[str, object] = {}
    for name in COLUMNS:
        source = columns.get(name, name)
        if source in here:
            found[name] = frame[source].to_numpy()
        elif name in columns or name not in _OPTIONAL:
            advice = " (0 in every row where there is one checkpoint an arm)" * (name == "seed")
            raise ScoreError(
                f"No column {source!r} for {name}{advice}. Columns: {here}. "
                f"Name it with columns={{{name!r}: ...}}."
            )
    found.setdefault("cluster_id", found["example_id"])
    found.setdefault("metric", metric or DEFAULT_METRIC)
    return pd.DataFrame({name: found[name] for name in COLUMNS}, index=range(len(frame)))


def _from_arrays(
    arrays: Mapping[str, npt.ArrayLike], metric: str, clusters: Sequence[str] | None
) -> ScoreTable:
    if not arrays:
        raise ScoreError("No arms were given.")
    grids: dict[str, npt.NDArray[np.generic]] = {}
    for arm, given in arrays.items():
        try:
            values = np.asarray(given)
        except ValueError:
            raise ScoreError(f"Arm {arm!r}: rows of unequal length are no grid.") from None
        grids[arm] = values[np.newaxis, :] if values.ndim == 1 else values
        if grids[arm].ndim != 2 or not values.size:
            raise ScoreError(
                f"Arm {arm!r}: expected (seeds, examples) or (examples,), got {values.shape}."
            )
    shapes = {arm: grid.shape for arm, grid in grids.items()}
    if len(set(shapes.values())) != 1:
        raise ScoreError(f"Arms are paired by position, so shapes must agree; got {shapes}.")
    num_seeds, num_examples = next(iter(shapes.values()))
    if clusters is not None and len(clusters) != num_examples:
        raise ScoreError(f"clusters: {len(clusters)} labels for {num_examples} examples.")
    width = len(str(num_examples - 1))
    names = [f"{at:0{width}d}" for at in range(num_examples)]
    labels = names if clusters is None else [f"cluster {label}" for label in clusters]
    return ScoreTable.concat(
        ScoreTable.from_columns(
            arm=arm,
            seed=seed,
            example_id=names,
            cluster_id=labels,
            metric=metric,
            value=grid[seed],
        )
        for arm, grid in grids.items()
        for seed in range(num_seeds)
    )


def _short(value: object) -> str:
    """What came, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
