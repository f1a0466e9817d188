"""One mission: arms x seeds, curves, gates with margins, parity, detectable effects.

A campaign may hold thousands of runs a mission: seeds come a page at a time, and only the runs of
that page are drawn. Plain data out; it draws nothing.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.errors import NotFoundError
from fleet.ledger.database import open_reader
from fleet.ledger.reader import LedgerReader
from fleet.monitor.snapshot import MissionView, take
from fleet.page import figures
from fleet.settings import RunPaths

SEEDS_A_PAGE = 40
MAX_CURVES = 240
"""Runs whose curves are drawn at once."""
PREFERRED = ("loss", "dev_loss", "reward", "canary")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run in the grid."""

    run: str
    seed: int
    state: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One arm in the grid."""

    arm: str
    role: str
    note: str
    series: int
    cells: tuple[Cell | None, ...]
    done: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the reader of a mission's page asked for."""

    page: int = 1
    metric: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionPage:
    """Everything on a mission's page."""

    run_id: str
    view: MissionView
    spec: Mapping[str, Any]
    seeds: tuple[int, ...]
    num_seeds: int
    page: int
    pages: int
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    metric: str
    curves: figures.Curves | None
    verdict: Mapping[str, Any] | None
    interim: Mapping[str, Any] | None
    gates: Sequence[Mapping[str, Any]]
    forest: Sequence[figures.ForestRow]
    leaks: Mapping[str, int]
    summary: Mapping[str, int]
    spec_hash: str
    data_digest: str
    traceback: str


def mission_view(paths: RunPaths, mission: str, look: Look) -> MissionPage:
    """Looks at one mission.

    Raises:
        NotFoundError: the launch has no such mission.
    """
    with LedgerReader(paths.ledger) as reader:
        spec = json.loads(reader.settled_spec_json(mission))
        snapshot = take(reader, now=time.time())
        view = next((item for item in snapshot.missions if item.mission == mission), None)
        row = next(item for item in reader.missions() if item.mission == mission)
        verdict = next(
            (b for _, b in reversed(reader.bodies("verdict")) if b["mission"] == mission), None
        )
        leaks, summary = reader.prepared(mission)
    if view is None:
        raise NotFoundError(f"Run {paths.run_id} has no mission {mission!r}.")
    cx = open_reader(paths.ledger)
    try:
        seeds, num_seeds = _seeds(cx, mission, look.page)
        rows = _rows(cx, mission, spec, seeds)
        metrics = _metrics(cx, mission)
        metric = look.metric if look.metric in metrics else _first(metrics)
        curves = _curves(cx, metric, rows)
    finally:
        cx.close()
    interim = None if verdict else view.interim
    gates = (verdict or interim or {}).get("gates", ())
    pages = max(1, -(-num_seeds // SEEDS_A_PAGE))
    return MissionPage(
        run_id=paths.run_id,
        view=view,
        spec=spec,
        seeds=seeds,
        num_seeds=num_seeds,
        page=min(max(1, look.page), pages),
        pages=pages,
        rows=rows,
        metrics=metrics,
        metric=metric,
        curves=curves,
        verdict=verdict,
        interim=interim,
        gates=gates,
        forest=figures.forest(gates),
        leaks=leaks,
        summary=summary,
        spec_hash=row.spec_hash,
        data_digest=row.data_digest or "",
        traceback=row.traceback or "",
    )


def _seeds(cx: sqlite3.Connection, mission: str, page: int) -> tuple[tuple[int, ...], int]:
    total = cx.execute(
        "SELECT count(DISTINCT seed) FROM runs WHERE mission = ?", (mission,)
    ).fetchone()[0]
    last = max(0, (total - 1) // SEEDS_A_PAGE)
    rows = cx.execute(
        "SELECT DISTINCT seed FROM runs WHERE mission = ? ORDER BY seed LIMIT ? OFFSET ?",
        (mission, SEEDS_A_PAGE, min(max(0, page - 1), last) * SEEDS_A_PAGE),
    ).fetchall()
    return tuple(seed for (seed,) in rows), total


def _rows(
    cx: sqlite3.Connection, mission: str, spec: Mapping[str, Any], seeds: Sequence[int]
) -> tuple[Row, ...]:
    done: dict[str, tuple[int, int]] = {
        arm: (ready, total)
        for arm, ready, total in cx.execute(
            "SELECT arm, sum(state = 'DONE'), count(*) FROM runs WHERE mission = ? GROUP BY arm",
            (mission,),
        )
    }
    cells: dict[str, dict[int, Cell]] = {}
    if seeds:
        found = cx.execute(
            "SELECT run, arm, seed, state FROM runs WHERE mission = ? AND seed BETWEEN ? AND ?",
            (mission, seeds[0], seeds[-1]),
        )
        for run, arm, seed, state in found:
            cells.setdefault(arm, {})[seed] = Cell(run=run, seed=seed, state=state)
    return tuple(
        Row(
            arm=arm,
            role=str(config["role"]),
            note=str(config.get("note", "")),
            series=position % 6 + 1,
            cells=tuple(cells.get(arm, {}).get(seed) for seed in seeds),
            done=done.get(arm, (0, 0))[0],
            total=done.get(arm, (0, 0))[1],
        )
        for position, (arm, config) in enumerate(spec["arms"].items())
    )


def _metrics(cx: sqlite3.Connection, mission: str) -> tuple[str, ...]:
    """Names of scalars, from the first runs that logged any."""
    rows = cx.execute(
        "SELECT DISTINCT name FROM metrics WHERE run IN (SELECT run FROM runs WHERE mission = ?"
        " AND started_at IS NOT NULL ORDER BY started_at LIMIT 12) ORDER BY name",
        (mission,),
    )
    return tuple(name for (name,) in rows)


def _first(metrics: Sequence[str]) -> str:
    return next((name for name in PREFERRED if name in metrics), next(iter(metrics), ""))


def _curves(cx: sqlite3.Connection, metric: str, rows: Sequence[Row]) -> figures.Curves | None:
    arms = {
        cell.run: row.arm
        for row in rows
        for cell in row.cells
        if cell is not None and cell.state != "PLANNED"
    }
    chosen = list(arms)[:MAX_CURVES]
    if not chosen or not metric:
        return None
    series = {run: points_of(cx, run, metric) for run in chosen}
    return figures.curves(series, arms, [row.arm for row in rows])


def points_of(cx: sqlite3.Connection, run: str, metric: str) -> list[tuple[float, float]]:
    """(step, value) of one scalar of one run; a retry's points replace those of the try before."""
    rows = cx.execute(
        "SELECT step, value FROM metrics WHERE run = ? AND name = ? ORDER BY step, rowid",
        (run, metric),
    )
    return list({step: (float(step), float(value)) for step, value in rows}.values())
