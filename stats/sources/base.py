"""What every format of scores shares: the options, the result, the error, JSON and number rules."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stats.errors import StatsError
from stats.scores import ScoreTable


class SourceError(StatsError):
    """A file of scores cannot be read as what it claims to be; names file, place and remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """How a file is to be read."""

    arm: str | None = None
    """Arm of all rows, for files that do not name one."""
    seed: int | None = None
    """Seed of all rows, for files that do not name one."""
    metrics: tuple[str, ...] | None = None
    """Metrics that are needed; None reads every one that is a number an example."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Long tables: our column name -> the file's."""
    cluster: str | None = None
    """Field of an item that names its cluster (document, template)."""
    epochs: Literal["mean", "seed"] = "mean"
    """Repeated answers to one item: averaged, or told apart as seeds."""
    prefix: str = ""
    """Put before every example id, where one arm and seed has several files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file that was read."""

    path: Path
    format: str
    scores: ScoreTable
    notes: tuple[str, ...] = ()
    """What a reader of the verdict must know of how this file was read."""


def number(value: Any) -> float | None:
    """A score as a number: bool counts as 0/1; None where it is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, complex):
        return float(value)
    return None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a file of JSON lines; empty lines are passed over.

    Raises:
        SourceError: names the line.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            for at, text in enumerate(stream, start=1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except json.JSONDecodeError as error:
                    raise SourceError(f"{path}, line {at}: not JSON: {error.msg}.") from None
                if not isinstance(row, dict):
                    raise SourceError(f"{path}, line {at}: expected an object, got {row!r:.40}.")
                yield at, row
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from None


def need_arm(path: Path, options: SourceOptions) -> tuple[str, int]:
    """Arm and seed that the caller gave to a file that names none."""
    if options.arm is None:
        raise SourceError(
            f"{path}: this format names no arm; say which it is: --scores ARM:SEED={path}."
        )
    return options.arm, 0 if options.seed is None else options.seed


def need_metrics(
    path: Path, wanted: Sequence[str] | None, known: Sequence[str], other: Sequence[str]
) -> tuple[str, ...]:
    """The metrics to read.

    Args:
        known: metrics with one number an example.
        other: metrics that are there, but not as a number an example.
    """
    if wanted is None:
        if not known:
            raise SourceError(f"{path}: no metric with one number an example.")
        return tuple(known)
    absent = [name for name in wanted if name not in known]
    for name in absent:
        if name in other:
            raise SourceError(
                f"{path}: metric {name!r} is no single number an example (a corpus statistic?); "
                f"known: {', '.join(known) or 'none'}."
            )
    found = tuple(name for name in wanted if name in known)
    if not found:
        names = ", ".join(map(repr, absent))
        raise SourceError(f"{path}: no metric {names}; known: {', '.join(known) or 'none'}.")
    return found


def table(
    path: Path,
    arm: str,
    rows: Sequence[tuple[int, str, str, str, float]],
) -> ScoreTable:
    """Rows (seed, example, cluster, metric, value) of one arm as a table."""
    if not rows:
        raise SourceError(f"{path}: holds no scores.")
    if any(math.isnan(row[4]) for row in rows):
        first = next(row for row in rows if math.isnan(row[4]))
        raise SourceError(
            f"{path}: metric {first[3]!r} of example {first[1]!r} is NaN; score it or run it again."
        )
    seeds, examples, clusters, metrics, values = zip(*rows, strict=True)
    try:
        return ScoreTable.from_columns(
            arm=arm,
            seed=seeds,
            example_id=examples,
            cluster_id=clusters,
            metric=metrics,
            value=values,
        )
    except StatsError as error:
        raise SourceError(f"{path}: {error}") from None
