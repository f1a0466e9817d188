"""Per-example scores as a long table, and complete grids of seeds x examples made from it.

Knows nothing of gates, intervals or models. The order in which rows arrive never matters: a
table is sorted once, when it is made, and everything downstream reads it in that order.

Shapes: S seeds, N units. A unit is an example, or a cluster of examples where clusters are
declared (examples from one document, template or stream are not independent of each other).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from stats.canonical import COLUMNS, TEXT_COLUMNS, FloatArray, IntArray, canonical, ranked
from stats.errors import MagnitudeError, MissingCellsError, ScoreError, StatsError
from stats.twoway import LARGEST

__all__ = [
    "COLUMNS",
    "ArmGrid",
    "FloatArray",
    "IntArray",
    "PairedGrid",
    "ScoreTable",
    "arm_grid",
    "paired_grid",
    "unit_means",
]

_NAMED_IN_ERRORS = 3


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Validated, canonically sorted scores: one row a cell (arm, seed, example, metric).

    A cell that comes twice with the same value is kept once; with another value it raises
    `DuplicateCellError`. NaN and infinity raise `NonFiniteScoreError`.
    """

    frame: pd.DataFrame
    """Long table with the columns `COLUMNS`, sorted by metric, arm, seed, example_id."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", canonical(self.frame))

    @classmethod
    def from_columns(
        cls,
        *,
        arm: str | Sequence[str],
        seed: int | Sequence[int],
        example_id: Sequence[str],
        cluster_id: Sequence[str] | None = None,
        metric: str | Sequence[str],
        value: npt.ArrayLike,
    ) -> ScoreTable:
        """Builds a table from columns; `arm`, `seed` and `metric` may be one value for all rows.

        Args:
            example_id: one id a row, the same ids for every arm and seed.
            cluster_id: one id a row, or None where every example stands alone.
            value: numbers (bool counts as 0/1), one a row.
        """
        values = np.asarray(value)
        if values.ndim != 1:
            raise ScoreError(f"value: expected one dimension, got shape {values.shape}.")
        columns: dict[str, object] = {
            "arm": arm,
            "seed": seed,
            "example_id": list(example_id),
            "cluster_id": list(example_id if cluster_id is None else cluster_id),
            "metric": metric,
            "value": values,
        }
        for name, column in columns.items():
            size = (
                len(values)
                if isinstance(column, str | int | float | np.generic)
                else len(cast(list[str], column))
            )
            if size != len(values):
                raise ScoreError(f"{name}: {size} entries for {len(values)} values.")
        return cls(pd.DataFrame(columns, index=range(len(values))))

    @classmethod
    def concat(cls, tables: Iterable[ScoreTable]) -> ScoreTable:
        """One table of all rows; the order of `tables` does not matter."""
        frames = [table.frame for table in tables]
        if not frames:
            raise ScoreError("ScoreTable.concat: no tables were given.")
        return cls(pd.concat(frames, ignore_index=True))

    @classmethod
    def from_parquet(cls, path: str | Path) -> ScoreTable:
        """Reads a table that `to_parquet`, or any tool with the same columns, wrote."""
        try:
            return cls(pd.read_parquet(path))
        except ScoreError as error:
            raise type(error)(f"{path}: {error}") from None
        except StatsError:
            raise
        except ValueError as error:  # what pyarrow raises is one
            text = " ".join(str(error).split())
            raise ScoreError(f"{path}: cannot be read as Parquet: {text}") from None

    def to_parquet(self, path: str | Path) -> None:
        """Writes the sorted table (zstd)."""
        self.frame.to_parquet(path, index=False, compression="zstd")

    def digest(self) -> str:
        """sha256 of the content; the same for every order of the rows."""
        digest = hashlib.sha256()
        for name in TEXT_COLUMNS:
            codes, names = ranked(self.frame[name])
            digest.update(json.dumps([name, names], ensure_ascii=True).encode())
            digest.update(codes.astype("<i8").tobytes())
        digest.update(self.frame["seed"].to_numpy(dtype="<i8").tobytes())
        digest.update((self.frame["value"].to_numpy(dtype="<f8") + 0.0).tobytes())
        return digest.hexdigest()

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(sorted(self.frame["arm"].unique()))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(int(seed) for seed in self.frame["seed"].unique()))

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(sorted(self.frame["metric"].unique()))

    def select(
        self,
        *,
        metric: str | Sequence[str] | None = None,
        arms: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> ScoreTable:
        """Rows of some metrics, arms and seeds; an empty table where nothing matches."""
        frame = self.frame
        if metric is not None:
            frame = frame[frame["metric"].isin([metric] if isinstance(metric, str) else metric)]
        if arms is not None:
            frame = frame[frame["arm"].isin(list(arms))]
        if seeds is not None:
            frame = frame[frame["seed"].isin(list(seeds))]
        table = object.__new__(ScoreTable)
        object.__setattr__(table, "frame", frame.reset_index(drop=True))
        return table

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArmGrid:
    """One metric of one arm as a complete grid of seeds x units."""

    metric: str
    arm: str
    seeds: tuple[int, ...]
    example_ids: tuple[str, ...]
    cluster_ids: tuple[str, ...]
    """Cluster of each example; equal to `example_ids` where none were declared."""
    unit_ids: tuple[str, ...]
    """What is resampled: clusters where they are declared, examples elsewhere."""
    values_SN: FloatArray
    """Means within unit."""
    cell_values_SE: FloatArray
    """Values of the single examples, before averaging within clusters."""
    unit_sizes_N: IntArray
    """Examples in each unit."""

    @property
    def clustered(self) -> bool:
        return self.unit_ids != self.example_ids

    @property
    def weights_N(self) -> FloatArray | None:
        """Weights of the units in the mean over examples; None where all are of one size."""
        return _weights(self.unit_sizes_N)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairedGrid:
    """Two arms on the same seeds and units."""

    metric: str
    treatment: str
    control: str
    seeds: tuple[int, ...]
    example_ids: tuple[str, ...]
    cluster_ids: tuple[str, ...]
    unit_ids: tuple[str, ...]
    treatment_SN: FloatArray
    control_SN: FloatArray
    unit_sizes_N: IntArray
    """Examples in each unit."""

    @property
    def weights_N(self) -> FloatArray | None:
        """Weights of the units in the mean over examples; None where all are of one size."""
        return _weights(self.unit_sizes_N)

    @property
    def difference_SN(self) -> FloatArray:
        """Treatment minus control."""
        return self.treatment_SN - self.control_SN

    @property
    def clustered(self) -> bool:
        return self.unit_ids != self.example_ids


def arm_grid(
    scores: ScoreTable, metric: str, arm: str, *, seeds: Sequence[int] | None = None
) -> ArmGrid:
    """The complete grid of one arm, averaged within clusters where they are declared.

    Args:
        seeds: the seeds that must be there, exactly; None takes the arm's own.

    Raises:
        MissingCellsError: unknown metric or arm, or a cell is missing.
        ScoreError: an example stands in two clusters.
        MagnitudeError: a value is too large to be analysed.
    """
    block = scores.select(metric=metric, arms=[arm]).frame
    if block.empty:
        raise MissingCellsError(
            f"No scores of metric {metric!r} for arm {arm!r}. "
            f"Known metrics: {list(scores.metrics)}; known arms: {list(scores.arms)}."
        )
    present = tuple(sorted(int(seed) for seed in block["seed"].unique()))
    wanted = present if seeds is None else tuple(sorted(int(seed) for seed in seeds))
    if present != wanted:
        raise MissingCellsError(
            f"Metric {metric!r}, arm {arm!r}: scores of seeds {list(present)}, "
            f"planned were {list(wanted)}."
        )
    codes, names = ranked(block["example_id"])
    num_seeds, num_examples = len(present), len(names)
    if len(block) != num_seeds * num_examples:
        raise MissingCellsError(_describe_holes(block, metric, arm, present, names))
    # Sorted by seed, then example: the block is the grid, row by row.
    cells_SE = block["value"].to_numpy(dtype=np.float64).reshape(num_seeds, num_examples)
    largest = float(np.abs(cells_SE).max())
    if largest > LARGEST:
        raise MagnitudeError(
            f"Metric {metric!r}, arm {arm!r}: a value of size {largest:g}; at most {LARGEST:g} can "
            "be analysed. Give the metric another unit."
        )
    assert np.array_equal(codes.reshape(num_seeds, -1)[-1], np.arange(num_examples))
    cluster_SE = block["cluster_id"].to_numpy(dtype=object).reshape(num_seeds, num_examples)
    if num_seeds > 1 and not (cluster_SE[1:] == cluster_SE[:1]).all():
        at = int(np.argmax((cluster_SE != cluster_SE[:1]).any(axis=0)))
        raise ScoreError(
            f"Metric {metric!r}, arm {arm!r}: example {names[at]!r} stands in clusters "
            f"{sorted(set(cluster_SE[:, at]))}; expected one."
        )
    clusters = tuple(str(cluster) for cluster in cluster_SE[0])
    unit_ids, sizes_N, values_SN = unit_means(cells_SE, tuple(names), clusters)
    return ArmGrid(
        metric=metric,
        arm=arm,
        seeds=present,
        example_ids=tuple(names),
        cluster_ids=clusters,
        unit_ids=unit_ids,
        values_SN=values_SN,
        cell_values_SE=cells_SE,
        unit_sizes_N=sizes_N,
    )


def paired_grid(
    scores: ScoreTable,
    metric: str,
    treatment: str,
    control: str,
    *,
    seeds: Sequence[int] | None = None,
) -> PairedGrid:
    """Two arms on one complete grid, paired by seed and example.

    Raises:
        MissingCellsError: a cell is missing, or the two arms differ in seeds, examples or
            clusters. Cells are never dropped to make the arms match.
    """
    first = arm_grid(scores, metric, treatment, seeds=seeds)
    second = arm_grid(scores, metric, control, seeds=seeds)
    for what in ("seeds", "example_ids", "cluster_ids"):
        ours, theirs = getattr(first, what), getattr(second, what)
        if ours != theirs:
            raise MissingCellsError(
                f"Metric {metric!r}: {what} of {treatment!r} and {control!r} differ: "
                f"{_difference(ours, theirs)}."
            )
    return PairedGrid(
        metric=metric,
        treatment=treatment,
        control=control,
        seeds=first.seeds,
        example_ids=first.example_ids,
        cluster_ids=first.cluster_ids,
        unit_ids=first.unit_ids,
        treatment_SN=first.values_SN,
        control_SN=second.values_SN,
        unit_sizes_N=first.unit_sizes_N,
    )


def unit_means(
    cells_SE: FloatArray, example_ids: tuple[str, ...], cluster_ids: tuple[str, ...]
) -> tuple[tuple[str, ...], IntArray, FloatArray]:
    """Names, sizes and per-seed means of the units: clusters where declared, else examples."""
    if cluster_ids == example_ids:
        return example_ids, np.ones(len(example_ids), dtype=np.int64), cells_SE
    names = sorted(set(cluster_ids))
    rank = {name: at for at, name in enumerate(names)}
    codes_E = np.array([rank[cluster] for cluster in cluster_ids])
    sizes_N = np.bincount(codes_E, minlength=len(names))
    sums_SN = np.stack([np.bincount(codes_E, row, minlength=len(names)) for row in cells_SE])
    return tuple(names), sizes_N.astype(np.int64), sums_SN / sizes_N


def _weights(sizes_N: IntArray) -> FloatArray | None:
    if bool((sizes_N == sizes_N[0]).all()):
        return None
    return sizes_N.astype(np.float64)


def _describe_holes(
    block: pd.DataFrame, metric: str, arm: str, seeds: tuple[int, ...], names: list[str]
) -> str:
    total = len(seeds) * len(names)
    holes: list[str] = []
    for seed in seeds:
        have = set(block.loc[block["seed"] == seed, "example_id"])
        holes += [f"seed {seed} example {name!r}" for name in names if name not in have]
        if len(holes) > _NAMED_IN_ERRORS:
            break
    shown = ", ".join(holes[:_NAMED_IN_ERRORS])
    return (
        f"Metric {metric!r}, arm {arm!r}: {total - len(block)} of {total} cells "
        f"(seeds x examples) are missing; first: {shown}."
    )


def _difference(ours: Sequence[object], theirs: Sequence[object]) -> str:
    left = sorted(set(map(str, ours)) - set(map(str, theirs)))
    right = sorted(set(map(str, theirs)) - set(map(str, ours)))
    if not left and not right:
        return "the same names in different places"
    return (
        f"{len(left)} only in the first {left[:_NAMED_IN_ERRORS]}, "
        f"{len(right)} only in the second {right[:_NAMED_IN_ERRORS]}"
    )
