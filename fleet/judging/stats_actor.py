"""The shared stats actor: complete grids in, verdicts out.

Holds nothing in memory that is not on disk: every call reads the ledger and the score files, so a
restarted actor gives the same figures. Knows neither models nor packs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fleet.judging.spec_in_force import spec_in_force
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import ResultRow
from fleet.settings import RunPaths
from fleet.states import RunState
from missions.judging import plan_of
from stats.plain import from_plain
from stats.scores import COLUMNS, ScoreTable
from stats.sequential.interim import interim_view
from stats.sequential.stop import EarlyStop
from stats.verdict import ArmCost, MissionVerdict, judge, judge_family


class StatsService:
    """Aggregates seeds and judges. One for the whole launch."""

    def __init__(self, root: str) -> None:
        self._paths = RunPaths(root=Path(root))

    def interim(self, mission: str, done: int) -> dict[str, Any]:
        """The INTERIM view after the first `done` planned seeds, with the CPU seconds it took."""
        started = time.process_time()
        with LedgerReader(self._paths.ledger) as reader:
            spec = spec_in_force(reader, mission)
            first = set(spec.seeds[:done])
            results = [
                row for row in reader.results(mission) if row.seed in first and row.arm in spec.arms
            ]
        view = interim_view(
            mission,
            spec.gates,
            read_scores(self._paths, [row.scores_file for row in results]),
            planned=spec.seeds,
            done=done,
            costs=_costs(results),
            futility=spec.futility,
            looks=spec.looks,
        )
        return {"view": view.to_dict(), "cpu_s": time.process_time() - started}

    def judge(
        self,
        mission: str,
        resamples: int = 10_000,
        stopped: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The verdict on one mission, as plain data; incomplete grids give INVALID.

        Args:
            stopped: the mission was ended early; the runs of its other seeds do not matter.
        """
        stop = None if stopped is None else from_plain(EarlyStop, stopped)
        with LedgerReader(self._paths.ledger) as reader:
            spec = spec_in_force(reader, mission)
            leaks, _ = reader.prepared(mission)
            results = [row for row in reader.results(mission) if row.arm in spec.arms]
            failed = [
                f"run {row.run} is {row.state}: {row.reason or 'no reason was recorded'}"
                for row in reader.runs(mission)
                if row.state is not RunState.DONE
                and row.arm in spec.arms
                and (stop is None or row.seed in stop.seeds)
            ]
        scores = read_scores(self._paths, [row.scores_file for row in results])
        verdict = judge(
            plan_of(spec),
            scores,
            _costs(results),
            rng_seed=spec.data_seed,
            leak_report=leaks,
            invalid=_few(failed),
            resamples=resamples,
            stopped=stop,
        )
        return verdict.to_dict()

    def judge_family(self, verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Benjamini-Hochberg over all missions of the launch."""
        records = [MissionVerdict.from_dict(verdict) for verdict in verdicts]
        return [verdict.to_dict() for verdict in judge_family(records)]


def read_scores(paths: RunPaths, files: Sequence[str]) -> ScoreTable:
    """All of a mission's scores as one table; empty where no run has any."""
    tables = [ScoreTable.from_parquet(paths.scores / name) for name in files]
    if tables:
        return ScoreTable.concat(tables)
    kinds = {"seed": "int64", "value": "float64"}
    return ScoreTable(
        pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "str")) for name in COLUMNS})
    )


def _costs(results: Sequence[ResultRow]) -> dict[str, ArmCost]:
    return {row.arm: from_plain(ArmCost, json.loads(row.cost_json)) for row in results}


def _few(reasons: Sequence[str], limit: int = 3) -> list[str]:
    """The first reasons and the number of the others: one broken mission fails 25 runs alike."""
    if len(reasons) <= limit:
        return list(reasons)
    return [*reasons[:limit], f"{len(reasons) - limit} more runs are not done"]
