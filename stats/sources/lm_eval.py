"""Samples of lm-evaluation-harness (0.4, `--log_samples`): `samples_<task>_<time>.jsonl`.

One file is one task of one model: one arm and seed. A row holds `doc_id`, `doc`, `target`,
`resps`, `filtered_resps`, `filter` and every metric under its own name. The example id is doc_id
with a piece of `doc_hash`, so that two files whose documents differ under equal numbers are not
taken for a pair. Where a file holds several filters, a metric is `name@filter`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stats.sources.base import (
    Source,
    SourceError,
    SourceOptions,
    json_lines,
    need_arm,
    need_metrics,
    number,
    table,
)

NAME = "lm-eval"
_OWN = frozenset(
    {
        "arguments",
        "doc",
        "doc_hash",
        "doc_id",
        "filter",
        "filtered_resps",
        "metrics",
        "prompt_hash",
        "resps",
        "target",
        "target_hash",
    }
)
"""Fields of a row that are no metric."""
_FILE = re.compile(r"^samples_(?P<task>.+)_\d{4}-\d{2}-\d{2}T[\d\-.:]+\.jsonl$")


def matches(path: Path) -> bool:
    if path.suffix != ".jsonl":
        return False
    _, first = next(json_lines(path), (0, {}))
    return "doc_id" in first and ("filtered_resps" in first or "resps" in first)


def task_of(path: Path) -> str | None:
    """The task, from the name that the harness gives its files."""
    found = _FILE.match(path.name)
    return found["task"] if found else None


def read(path: Path, options: SourceOptions) -> Source:
    """All rows of the needed metrics."""
    arm, seed = need_arm(path, options)
    rows = list(json_lines(path))
    if not rows:
        raise SourceError(f"{path}: holds no samples.")
    filters = {str(row.get("filter", "none")) for _, row in rows}
    values: dict[str, list[tuple[str, str, float]]] = {}
    other: set[str] = set()
    for at, row in rows:
        if "doc_id" not in row:
            raise SourceError(f"{path}, line {at}: no doc_id; not a sample of lm-eval.")
        example = _example(row, options.prefix)
        cluster = _cluster(path, at, row, options.cluster) or example
        for name in _metric_names(row):
            metric = f"{name}@{row['filter']}" if len(filters) > 1 else name
            value = number(row.get(name))
            if value is None:
                other.add(metric)
            else:
                values.setdefault(metric, []).append((example, cluster, value))
    known = sorted(set(values) - other)
    chosen = need_metrics(path, options.metrics, known, sorted(other))
    return Source(
        path=path,
        format=NAME,
        scores=table(
            path,
            arm,
            [(seed, *cell[:2], metric, cell[2]) for metric in chosen for cell in values[metric]],
        ),
    )


def _metric_names(row: dict[str, Any]) -> list[str]:
    """Names in `metrics` (written since 0.4.6), else every field that is not the harness's own."""
    named = row.get("metrics")
    if isinstance(named, list):
        return [str(name) for name in named]
    return [name for name in row if name not in _OWN]


def _example(row: dict[str, Any], prefix: str) -> str:
    digest = str(row.get("doc_hash", ""))[:8]
    return f"{prefix}{row['doc_id']}{f'#{digest}' if digest else ''}"


def _cluster(path: Path, at: int, row: dict[str, Any], field: str | None) -> str | None:
    if field is None:
        return None
    doc = row.get("doc")
    if not isinstance(doc, dict) or doc.get(field) is None:
        known = sorted(doc) if isinstance(doc, dict) else []
        raise SourceError(f"{path}, line {at}: doc has no field {field!r}; known: {known}.")
    return str(doc[field])
