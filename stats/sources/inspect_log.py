"""Logs of inspect_ai: `.json`, and `.eval` (a zip) as far as Python can unpack it.

One log is one task of one model: one arm and seed. The metric is the scorer's name; a scorer that
gives a mapping makes `scorer@key`. Letters become numbers as in inspect's own `value_to_float`:
C 1, P 0.5, I and N 0. An item answered in several epochs is averaged, or its epochs stand as
seeds where the caller says so: then the statement is about new samplings of one checkpoint.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stats.sources.base import (
    Source,
    SourceError,
    SourceOptions,
    need_arm,
    need_metrics,
    number,
    table,
)

NAME = "inspect"
_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
EPOCH_NOTE = (
    "seeds are epochs: repeated sampling of one checkpoint, so the verdict is about new samplings "
    "of that checkpoint, not about newly trained ones"
)


def matches(path: Path) -> bool:
    if path.suffix == ".eval":
        return zipfile.is_zipfile(path)
    if path.suffix != ".json":
        return False
    log = _load(path, path.read_bytes())
    return isinstance(log, dict) and "eval" in log and "samples" in log


def read(path: Path, options: SourceOptions) -> Source:
    """All samples of the needed scorers.

    Raises:
        SourceError: an unfinished log, or a sample without a score; neither is passed over.
    """
    arm, seed = need_arm(path, options)
    status, samples = _open(path)
    if status != "success":
        raise SourceError(
            f"{path}: status {status!r}; only a finished evaluation (success) has all its samples."
        )
    cells: dict[str, dict[tuple[str, str, int], float]] = {}
    other: set[str] = set()
    epochs: set[int] = set()
    for sample in samples:
        example = f"{options.prefix}{sample.get('id')}"
        epoch = int(sample.get("epoch", 1))
        epochs.add(epoch)
        if not sample.get("scores"):
            raise SourceError(
                f"{path}: sample {example!r}, epoch {epoch}, has no score"
                f"{_why(sample.get('error'))}. Score it or run it again; it is not dropped."
            )
        cluster = _cluster(path, sample, options.cluster) or example
        for scorer, score in sample["scores"].items():
            for metric, value in _values(scorer, score):
                if value is None:
                    other.add(metric)
                    continue
                if (example, cluster, epoch) in cells.setdefault(metric, {}):
                    raise SourceError(f"{path}: sample {example!r}, epoch {epoch}, comes twice.")
                cells[metric][(example, cluster, epoch)] = value
    known = sorted(set(cells) - other)
    chosen = need_metrics(path, options.metrics, known, sorted(other))
    as_seeds = options.epochs == "seed"
    if as_seeds and options.seed is not None:
        raise SourceError(
            f"{path}: epochs stand as seeds, so leave the seed out: --scores {arm}=..."
        )
    rows = [
        row
        for metric in chosen
        for row in (_by_epoch if as_seeds else _mean_of_epochs)(metric, cells[metric], seed)
    ]
    notes = [EPOCH_NOTE] if as_seeds else []
    if not as_seeds and len(epochs) > 1:
        notes.append(f"{path.name}: {len(epochs)} epochs of every sample are averaged")
    return Source(path=path, format=NAME, scores=table(path, arm, rows), notes=tuple(notes))


Row = tuple[int, str, str, str, float]


def _by_epoch(metric: str, cells: dict[tuple[str, str, int], float], seed: int) -> list[Row]:
    return [
        (epoch, example, cluster, metric, value)
        for (example, cluster, epoch), value in cells.items()
    ]


def _mean_of_epochs(metric: str, cells: dict[tuple[str, str, int], float], seed: int) -> list[Row]:
    groups: dict[tuple[str, str], list[float]] = {}
    for (example, cluster, _), value in sorted(cells.items()):
        groups.setdefault((example, cluster), []).append(value)
    return [
        (seed, example, cluster, metric, sum(values) / len(values))
        for (example, cluster), values in groups.items()
    ]


def _values(scorer: str, score: Any) -> list[tuple[str, float | None]]:
    value = score.get("value") if isinstance(score, dict) else score
    if isinstance(value, dict):
        return [(f"{scorer}@{key}", _as_number(part)) for key, part in value.items()]
    return [(scorer, _as_number(value))]


def _as_number(value: Any) -> float | None:
    if not isinstance(value, str):
        return number(value)
    if value in _LETTERS:
        return _LETTERS[value]
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    try:
        return float(value)
    except ValueError:
        return None


def _cluster(path: Path, sample: dict[str, Any], field: str | None) -> str | None:
    if field is None:
        return None
    metadata = sample.get("metadata") or {}
    if metadata.get(field) is None:
        raise SourceError(
            f"{path}: sample {sample.get('id')!r}: metadata has no field {field!r}; known: "
            f"{sorted(metadata)}."
        )
    return str(metadata[field])


def _why(error: Any) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return f" (error: {' '.join(str(text).split())[:80]})" if text else ""


def _open(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """(status, samples) of a log in either of its two containers."""
    if path.suffix == ".eval":
        members = dict(_members(path))
        if "header.json" not in members:
            raise SourceError(f"{path}: no header.json; an unfinished or foreign log.")
        status = members["header.json"].get("status")
        return str(status), [log for name, log in members.items() if name.startswith("samples/")]
    log = _load(path, path.read_bytes())
    if not isinstance(log, dict) or not isinstance(log.get("samples"), list):
        raise SourceError(f"{path}: no list of samples; not a log of inspect, or a header only.")
    return str(log.get("status")), log["samples"]


def _members(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name == "header.json" or (
                    name.startswith("samples/") and name.endswith(".json")
                ):
                    yield name, _load(path, archive.read(name))
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise SourceError(
            f"{path}: cannot be unpacked ({error}); write it as JSON first: "
            "inspect log convert LOG --to json --output-dir DIR."
        ) from None


def _load(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path}: not JSON: {error}") from None
