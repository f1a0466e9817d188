"""The loop of one worker: prepare, lease packs, train, evaluate, hand over, until none is left.

Everything that counts is committed to the ledger as it happens, and training to checkpoints, so a
worker may die at any point and its successor goes on with what is missing. An error of the
mission's own code is a recorded failure of the run, the pack or the mission, never an exception
that leaves this loop; what does leave it (a dead disk, a ledger that cannot be reached) is the
fleet's to handle. Knows no Ray.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import platform
import threading
import time
import traceback as tracebacks
import uuid
from collections.abc import Callable, Iterator

import psutil
import torch

from bem.distributed import Share
from fleet.errors import FleetError, KeyConflictError, StorageError
from fleet.monitor.scalars import ScalarBoard
from fleet.policies import Cause
from fleet.workers import preemption
from fleet.workers.context import WorkerContext
from fleet.workers.failures import reason_of
from fleet.workers.handover import plain_extras, results_back
from fleet.workers.job import WorkerJob
from fleet.workers.pack_work import PackWork, send_points
from fleet.workers.preemption import Notice
from fleet.workers.shared_group import ledger_of
from fleet.workers.split_lock import LedgerLock
from fleet.workers.worker_ledger import WorkerLedger
from missions.protocol import Mission
from missions.spec import MissionSpec

HEARTBEAT_S = 1.0
PREEMPTED_EXIT = 75

log = logging.getLogger("fleet.workers.worker")


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
        notice: Notice | None = None,
        drained: Callable[[], str] = lambda: "",
        share: Share | None = None,
    ) -> None:
        self._job = job
        self._ledger = ledger if share is None else ledger_of(ledger, share)
        self._share = share
        self._rank = rank
        self._host = host or platform.node()
        self._attempt = f"{job.job}.{rank}.{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._notice = notice or Notice()
        self._drained = drained
        self._left = threading.Event()
        self._lost: list[BaseException] = []
        self._spec = MissionSpec.model_validate_json(job.spec_json)
        self._told = False
        """Whether the ledger asked this worker to leave its work."""
        work, scalars = job.paths.work(job.mission), job.paths.tensorboard
        if share is not None and not share.leads:
            # What a follower writes is the leader's once more, and is of no use to anybody.
            work = work / f"follower-{share.rank}"
            scalars = work / "tensorboard"
        self._folder = work
        self._board = ScalarBoard(scalars)
        self._ctx = WorkerContext(
            self._spec,
            work,
            board=self._board,
            lock=LedgerLock(self._ledger, self._attempt),
            device=device,
            stop=self._stop,
            timed=self._timed,
            share=share,
        )

    def run(self) -> None:
        """Works until no pack is left or the fleet says stop."""
        if not self._job.storage and not self._job.paths.ledger.is_file():
            raise StorageError(
                f"{self._job.root} is not visible on {platform.node()}: workers on other machines "
                "need --storage, to which they copy their artifacts."
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
        threading.Thread(target=self._heed, name="notice", daemon=True).start()
        self._notice.heard = True
        try:
            self._work()
            self._told = self._stop.is_set()
        finally:
            self._notice.heard = False
            self._stop.set()
            beat.join()
            self._board.close()
        if self._lost:
            raise self._lost[0]
        send_points(self._ctx, self._ledger)
        self._leave()

    def _leave(self) -> None:
        """Ends the attempt; a pack that it still holds goes back."""
        self._left.set()
        if self._notice.given:
            self._ledger.end_attempt(self._attempt, Cause.PREEMPTED, self._notice.reason)
        elif self._told:
            self._ledger.end_attempt(self._attempt, Cause.STOPPED, "told to stop")
        else:
            self._ledger.end_attempt(self._attempt)

    def _heed(self) -> None:
        """Once told to go: training stops at its next step and writes a checkpoint. What does not
        come to an end in time (a long evaluation) is given up; the checkpoints are on disk."""
        self._notice.wait()
        log.info("%s: told to go: %s", self._attempt, self._notice.reason)
        self._stop.set()
        if not self._left.wait(preemption.LEAVE_S):
            log.warning("%s: left by force after %.0f s", self._attempt, preemption.LEAVE_S)
            self._leave()
            os._exit(PREEMPTED_EXIT)

    def _work(self) -> None:
        packs = PackWork(
            self._job,
            self._ledger,
            self._ctx,
            attempt=self._attempt,
            folder=self._folder,
            stop=self._stop,
            timed=self._timed,
        )
        mission = self._prepare()
        if mission is None:
            return
        while not self._stop.is_set():
            lease = self._ledger.lease(self._attempt)
            if lease is None:
                break
            packs.carry_out(mission, lease)
        if self._stop.is_set():
            return
        if not self._job.paths.ledger.is_file():
            text = "no report extras: they need every run's artifacts on one machine"
            self._ledger.event("warning", self._job.mission, text)
        elif self._ledger.claim_extras(self._job.mission, self._attempt):
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
        try:
            self._ledger.record_data(
                self._job.mission, prepared.data_digest, prepared.leak_report, prepared.summary
            )
        except KeyConflictError as error:  # a resume with other code, most likely
            self._ledger.event("alarm", self._job.mission, str(error))
            self._record_mission_failure("prepare", error)
            return None
        self._ledger.set_phase(self._job.mission, "running")
        return mission

    def _make_extras(self, mission: Mission) -> None:
        """Tables and curves for the report; their failure spoils the report, not the verdict."""
        from fleet.ledger.reader import LedgerReader

        try:
            with (
                self._timed("extras", self._job.mission),
                LedgerReader(self._job.paths.ledger) as reader,
            ):
                rows = reader.results(self._job.mission)
                artifacts, scores = results_back(rows, self._job.paths)
                extras = mission.report_extras(self._spec, self._ctx, artifacts, scores)
                plain = plain_extras(extras)
        except FleetError:
            raise
        except Exception as error:
            text = f"report extras: {type(error).__name__}: {error}"
            self._ledger.event("error", self._job.mission, text)
            log.exception("%s: report extras failed", self._job.mission)
            return
        self._ledger.record_extras(self._job.mission, json.dumps(plain, allow_nan=False))

    def _record_mission_failure(self, stage: str, error: BaseException) -> None:
        log.exception("%s: %s failed", self._job.mission, stage)
        self._ledger.fail_mission(
            self._job.mission,
            reason=f"{stage}: {reason_of(error)}",
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

    def _beat(self) -> None:
        """Keeps the lease alive, sends scalars, learns of a stop. Runs beside the training."""
        while not self._stop.wait(HEARTBEAT_S):
            try:
                send_points(self._ctx, self._ledger)
                if self._ledger.heartbeat(self._attempt):
                    self._stop.set()
                drained = self._drained()
                if drained:
                    self._notice.give(drained)
            except Exception as error:  # noqa: BLE001 - raised again by `run`
                self._lost.append(error)
                self._stop.set()
