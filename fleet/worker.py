"""The loop of one worker: prepare, lease packs, train, evaluate, hand over, until none is left.

Everything that counts is committed to the ledger as it happens, so a worker may die at any point
and its successor goes on with what is missing. An error of the mission's own code is a recorded
failure of the run, the pack or the mission, never an exception that leaves this loop; what does
leave it (a dead disk, a ledger that cannot be reached) is the fleet's to handle. Knows no Ray.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import platform
import tempfile
import threading
import time
import traceback as tracebacks
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from fleet.context import WorkerContext
from fleet.errors import FleetError, KeyConflictError, StorageError
from fleet.ledger.records import Lease, RunResult
from fleet.monitor.scalars import ScalarBoard
from fleet.policies import Cause
from fleet.settings import RunPaths
from fleet.split_lock import LedgerLock
from fleet.worker_ledger import WorkerLedger
from missions.protocol import Artifact, Mission, Pack, ReportTable, Run
from missions.spec import MissionSpec
from stats.errors import NonFiniteScoreError
from stats.plain import from_plain, to_plain
from stats.scores import ScoreTable
from stats.verdict import ArmCost

HEARTBEAT_S = 1.0

log = logging.getLogger("fleet.worker")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerJob:
    """What a worker is told when it starts; plain enough to cross processes."""

    mission: str
    job: str
    """Name of the worker group; attempts of one job follow each other."""
    root: str
    """The launch's folder; every worker must see it."""
    spec_json: str
    catalog: str
    """Module with `load_mission(id)`."""
    submitted_at: float

    @property
    def paths(self) -> RunPaths:
        return RunPaths(root=Path(self.root))


class Worker:
    """One worker process at work on one mission."""

    def __init__(
        self,
        job: WorkerJob,
        ledger: WorkerLedger,
        *,
        rank: int,
        device: torch.device,
        host: str = "",
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._rank = rank
        self._host = host or platform.node()
        self._attempt = f"{job.job}.{rank}.{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._lost: list[BaseException] = []
        self._spec = MissionSpec.model_validate_json(job.spec_json)
        self._board = ScalarBoard(job.paths.tensorboard)
        self._ctx = WorkerContext(
            self._spec,
            job.paths.work(job.mission),
            board=self._board,
            lock=LedgerLock(ledger, self._attempt),
            device=device,
            stop=self._stop,
            timed=self._timed,
        )

    def run(self) -> None:
        """Works until no pack is left or the fleet says stop."""
        if not self._job.paths.ledger.is_file():
            raise StorageError(
                f"{self._job.root} is not visible on {platform.node()}: the runs folder must lie "
                "on storage that every node mounts, the ledger itself on the head's local disk."
            )
        self._ledger.begin_attempt(
            self._attempt,
            mission=self._job.mission,
            job=self._job.job,
            rank=self._rank,
            host=self._host,
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
        )
        startup_s = time.time() - self._job.submitted_at
        self._ledger.timing(
            self._job.mission, "startup", self._job.job, startup_s, time.process_time()
        )
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        try:
            self._work()
        finally:
            self._stop.set()
            beat.join()
            self._board.close()
        if self._lost:
            raise self._lost[0]
        self._send_points()
        self._ledger.end_attempt(self._attempt, Cause.STOPPED, "stopped by the user")

    def _work(self) -> None:
        mission = self._prepare()
        if mission is None:
            return
        artifacts: dict[Run, Artifact] = {}
        while not self._stop.is_set():
            lease = self._ledger.lease(self._attempt)
            if lease is None:
                break
            self._run_pack(mission, lease, artifacts)
        if not self._stop.is_set() and self._ledger.claim_extras(self._job.mission, self._attempt):
            self._make_extras(mission)

    def _prepare(self) -> Mission | None:
        """The mission with its data on disk; None where that failed (and is recorded)."""
        self._ledger.set_phase(self._job.mission, "preparing")
        log.info("%s: preparing data", self._job.mission)
        try:
            with self._timed("prepare", self._job.job):
                mission: Mission = importlib.import_module(self._job.catalog).load_mission(
                    self._job.mission
                )
                prepared = mission.prepare(self._spec, self._ctx)
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            if not self._stop.is_set():
                self._record_mission_failure("prepare", error)
            return None
        self._ledger.record_data(
            self._job.mission, prepared.data_digest, prepared.leak_report, prepared.summary
        )
        self._ledger.set_phase(self._job.mission, "running")
        return mission

    def _run_pack(self, mission: Mission, lease: Lease, artifacts: dict[Run, Artifact]) -> None:
        runs = {
            name: Run(mission=self._job.mission, arm=arm, seed=lease.seed)
            for name, arm in lease.runs
        }
        pack = Pack(name=lease.pack, runs=tuple(runs.values()))
        log.info("%s: training (attempt %d)", lease.pack, lease.tries)
        self._ledger.start_pack(self._attempt, lease.pack)
        try:
            with self._timed("train", lease.pack):
                trained = mission.train(self._spec, pack, self._ctx)
            if self._stop.is_set():
                return
            absent = [name for name in lease.missing if runs[name] not in trained]
            if absent:
                raise ValueError(f"train returned no artifact for {', '.join(absent)}.")
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            if self._stop.is_set():
                # A training that was cut short may trip over what it does not have: no failure.
                log.info("%s: stopped in training (%s)", lease.pack, error)
                return
            for name in lease.missing:
                self._record_failure(name, "train", error)
            self._ledger.end_pack(self._attempt, lease.pack)
            return
        artifacts.update(trained)
        for name in lease.missing:
            if self._stop.is_set():
                return
            self._evaluate(mission, name, runs[name], trained[runs[name]])
        self._send_points()
        self._ledger.end_pack(self._attempt, lease.pack)

    def _evaluate(self, mission: Mission, name: str, run: Run, artifact: Artifact) -> None:
        try:
            with self._timed("evaluate", name):
                scores = mission.evaluate(self._spec, run, artifact, "test", self._ctx)
                result = _result(name, scores, artifact)
            self._ledger.finish_run(self._attempt, result)
            log.info("%s: done, %d scores", name, len(scores))
        except KeyConflictError as error:
            self._ledger.event("alarm", name, str(error))
            self._record_failure(name, "hand over", error)
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            if self._stop.is_set():
                log.info("%s: stopped in evaluation (%s)", name, error)
                return
            self._record_failure(name, "evaluate", error)

    def _make_extras(self, mission: Mission) -> None:
        """Tables and curves for the report; their failure spoils the report, not the verdict."""
        from fleet.ledger.reader import LedgerReader

        try:
            with (
                self._timed("extras", self._job.mission),
                LedgerReader(self._job.paths.ledger) as reader,
            ):
                artifacts: dict[Run, Artifact] = {}
                tables: list[ScoreTable] = []
                for row in reader.results(self._job.mission):
                    run = Run(mission=row.mission, arm=row.arm, seed=row.seed)
                    artifacts[run] = Artifact(
                        path=Path(row.artifact),
                        cost=from_plain(ArmCost, json.loads(row.cost_json)),
                        figures=json.loads(row.figures_json),
                    )
                    tables.append(ScoreTable.from_parquet(self._job.paths.scores / row.scores_file))
                extras = mission.report_extras(
                    self._spec, self._ctx, artifacts, ScoreTable.concat(tables)
                )
                plain = [
                    {"is": "table" if isinstance(extra, ReportTable) else "figure"}
                    | dict(to_plain(extra))
                    for extra in extras
                ]
        except FleetError:
            raise
        except Exception as error:
            text = f"report extras: {type(error).__name__}: {error}"
            self._ledger.event("error", self._job.mission, text)
            log.exception("%s: report extras failed", self._job.mission)
            return
        self._ledger.record_extras(self._job.mission, json.dumps(plain, allow_nan=False))

    def _record_failure(self, run: str, stage: str, error: BaseException) -> None:
        log.exception("%s: %s failed", run, stage)
        nonfinite = isinstance(error, NonFiniteScoreError | FloatingPointError)
        self._ledger.fail_run(
            self._attempt,
            run,
            cause=Cause.NONFINITE if nonfinite else Cause.ERROR,
            reason=f"{stage}: {type(error).__name__}: {error}",
            traceback="".join(tracebacks.format_exception(error)),
        )

    def _record_mission_failure(self, stage: str, error: BaseException) -> None:
        log.exception("%s: %s failed", self._job.mission, stage)
        self._ledger.fail_mission(
            self._job.mission,
            reason=f"{stage}: {type(error).__name__}: {error}",
            traceback="".join(tracebacks.format_exception(error)),
        )

    @contextlib.contextmanager
    def _timed(self, stage: str, name: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            self._ledger.timing(
                self._job.mission,
                stage,
                name,
                time.monotonic() - wall,
                time.process_time() - cpu,
            )

    def _send_points(self) -> None:
        points = self._ctx.take_points()
        if points:
            self._ledger.log_points(points)

    def _beat(self) -> None:
        """Keeps the lease alive, sends scalars, learns of a stop. Runs beside the training."""
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self._send_points()
                if self._ledger.heartbeat(self._attempt):
                    self._stop.set()
            except Exception as error:  # noqa: BLE001 - raised again by `run`
                self._lost.append(error)
                self._stop.set()


def _result(name: str, scores: ScoreTable, artifact: Artifact) -> RunResult:
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


def open_log(paths: RunPaths, mission: str) -> None:
    """Sends this process's log records and warnings to `logs/<mission>.log`."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(paths.logs / f"{mission}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


def parse_job(config: Mapping[str, Any]) -> WorkerJob:
    """The job from a train loop's plain configuration."""
    return WorkerJob(**config)
