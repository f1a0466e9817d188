"""One run: where it stands, its settings, curves, cost, artifacts and the end of its log.

Paths come from the ledger and stay inside the launch's folder; files are listed, never sent. Plain
data out; it draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.errors import NotFoundError
from fleet.ledger.database import open_reader
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import RunRow
from fleet.monitor.mission_log import mission_log, show
from fleet.page import figures
from fleet.page.mission_view import points_of
from fleet.settings import RunPaths

TAIL_BYTES = 256 << 10
TAIL_LINES = 80
MAX_FILES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A change of state."""

    at: float
    before: str
    after: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One scalar of the run."""

    metric: str
    curves: figures.Curves


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPage:
    """Everything on a run's page."""

    run_id: str
    row: RunRow
    arm: Mapping[str, Any]
    params: Mapping[str, Any]
    attempts: int
    moves: tuple[Move, ...]
    charts: tuple[Chart, ...]
    cost: Mapping[str, Any]
    figures: Mapping[str, Any]
    files: tuple[tuple[str, int], ...]
    """(path within the artifact, bytes)."""
    more_files: int
    log: tuple[str, ...]
    log_file: str
    log_is_own: bool
    """Lines that name this run; otherwise the end of the mission's log."""


def run_view(paths: RunPaths, name: str) -> RunPage:
    """Looks at one run.

    Raises:
        NotFoundError: the launch has no such run.
    """
    with LedgerReader(paths.ledger) as reader:
        row = next((run for run in reader.runs() if run.run == name), None)
        if row is None:
            raise NotFoundError(f"Run {paths.run_id} has no run {name!r}.")
        spec = json.loads(reader.settled_spec_json(row.mission))
        result = next((r for r in reader.results(row.mission) if r.run == name), None)
        pack = next(pack for pack in reader.packs(row.mission) if pack.pack == row.pack)
    cx = open_reader(paths.ledger)
    try:
        moves = tuple(
            Move(at=at, before=before, after=after, reason=reason)
            for at, before, after, reason in cx.execute(
                "SELECT at, before, after, reason FROM moves WHERE run = ? ORDER BY id", (name,)
            )
        )
        names = cx.execute("SELECT DISTINCT name FROM metrics WHERE run = ? ORDER BY name", (name,))
        charts = []
        for (metric,) in names.fetchall()[:12]:
            drawn = figures.curves({name: points_of(cx, name, metric)}, {name: row.arm}, [row.arm])
            if drawn is not None:
                charts.append(Chart(metric=metric, curves=drawn))
    finally:
        cx.close()
    found = list(_files(paths, row, None if result is None else result.artifact))
    log_file, lines, own = _tail(paths, row)
    return RunPage(
        run_id=paths.run_id,
        row=row,
        arm=spec["arms"].get(row.arm, {}),
        params=spec["params"],
        attempts=pack.tries,
        moves=moves,
        charts=tuple(charts),
        cost=json.loads(result.cost_json) if result else {},
        figures=json.loads(result.figures_json) if result else {},
        files=tuple(found[:MAX_FILES]),
        more_files=max(0, len(found) - MAX_FILES),
        log=tuple(lines),
        log_file=log_file,
        log_is_own=own,
    )


def _files(paths: RunPaths, row: RunRow, artifact: str | None) -> list[tuple[str, int]]:
    folder = paths.work(row.mission) / "artifacts" / row.run
    if not folder.is_dir() and artifact is not None:
        folder = Path(artifact)
    if not folder.is_dir() or not folder.resolve().is_relative_to(paths.root.resolve()):
        return []
    return [
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]


def _tail(paths: RunPaths, row: RunRow) -> tuple[str, list[str], bool]:
    """(file, last lines, whether they name the run) of the mission's log."""
    path = mission_log(paths.logs, row.mission)
    if not path.is_file():
        path = path.with_suffix(".log")
    if not path.is_file():
        return "", [], False
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        raw = stream.read()
    lines = [_words(line) for line in raw.decode("utf-8", "replace").splitlines()]
    marks = (row.run, f"{row.pack}:")
    own = [line for line in lines if any(mark in line for mark in marks)]
    return path.name, (own or lines)[-TAIL_LINES:], bool(own)


def _words(line: str) -> str:
    """A line of JSON as a person reads it; any other line as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    return show(record) if isinstance(record, dict) else line
