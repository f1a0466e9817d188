"""What goes from a mission to the ledger when a run is done, and comes back for the report.

Files and plain data; knows neither leases nor Ray.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fleet.ledger.records import ResultRow, RunResult
from fleet.settings import RunPaths
from missions.protocol import Artifact, ReportFigure, ReportTable, Run
from stats.plain import from_plain, to_plain
from stats.scores import ScoreTable
from stats.verdict import ArmCost


def result_of(name: str, scores: ScoreTable, artifact: Artifact) -> RunResult:
    """A finished run as the ledger takes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        scores.to_parquet(path)
        content = path.read_bytes()
    return RunResult(
        run=name,
        scores_parquet=content,
        scores_digest=scores.digest(),
        scores_rows=len(scores),
        artifact=str(artifact.path),
        cost_json=json.dumps(to_plain(artifact.cost), sort_keys=True),
        figures_json=json.dumps(_finite(artifact.figures), sort_keys=True, allow_nan=False),
    )


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Diagnostics may be NaN (a code that never varied); JSON has no word for that but null."""
    return {
        name: float(value) if torch.isfinite(torch.tensor(float(value))) else None
        for name, value in figures.items()
    }


def artifact_back(row: ResultRow, paths: RunPaths) -> Artifact:
    """A run's artifact as the mission gave it; from the launch's folder where that was moved, or
    brought back from a storage to another machine."""
    recorded = Path(row.artifact)
    return Artifact(
        path=recorded if recorded.is_dir() else paths.artifact(row.mission, row.run),
        cost=from_plain(ArmCost, json.loads(row.cost_json)),
        figures=json.loads(row.figures_json),
    )


def results_back(
    rows: Iterable[ResultRow], paths: RunPaths
) -> tuple[dict[Run, Artifact], ScoreTable]:
    """Artifacts and scores of finished runs, as the mission gave them."""
    artifacts: dict[Run, Artifact] = {}
    tables: list[ScoreTable] = []
    for row in rows:
        run = Run(mission=row.mission, arm=row.arm, seed=row.seed)
        artifacts[run] = artifact_back(row, paths)
        tables.append(ScoreTable.from_parquet(paths.scores / row.scores_file))
    return artifacts, ScoreTable.concat(tables)


def plain_extras(extras: Sequence[ReportTable | ReportFigure]) -> list[dict[str, Any]]:
    """Tables and figures as plain data that says which is which."""
    return [
        {"is": "table" if isinstance(extra, ReportTable) else "figure"} | dict(to_plain(extra))
        for extra in extras
    ]
