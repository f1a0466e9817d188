"""The loop of one worker: prepare, lease packs, train, evaluate, hand over, until none is left.

Everything that counts is committed to the ledger as it happens, and training to checkpoints, so a
worker may die at any point and its successor goes on with what is missing. An error of the
mission's own code is a recorded failure of the run, the pack or the mission, never an exception
that leaves this loop; what does leave it (a dead disk, a ledger that cannot be reached) is the
fleet's to handle. Knows no Ray.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import platform
import threading
import time
import traceback as tracebacks
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import psutil
import torch

from bem.distributed import Share
from fleet import provenance
from fleet.errors import FleetError, KeyConflictError, StorageError
from fleet.ledger.records import Lease
from fleet.monitor.scalars import ScalarBoard
from fleet.policies import Cause
from fleet.storage import Storage
from fleet.workers import preemption
from fleet.workers.context import WorkerContext
from fleet.workers.failures import (
    cause_of_failure,
    is_disk_trouble,
    is_lost_peer,
    reason_of,
)
from fleet.workers.handover import plain_extras, result_of, results_back
from fleet.workers.job import WorkerJob
from fleet.workers.preemption import Notice
from fleet.workers.shared_group import ledger_of
from fleet.workers.split_lock import LedgerLock
from fleet.workers.worker_ledger import WorkerLedger
from missions.checkpoints import PackCheckpoints
from missions.protocol import Artifact, Mission, Pack, Run
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
        self._code = provenance.code_version()
        self._told = False
        """Whether the ledger asked this worker to leave its work."""
        self._failed = False
        """Whether a run of the pack at hand has failed."""
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
        self._send_points()
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
        mission = self._prepare()
        if mission is None:
            return
        artifacts: dict[Run, Artifact] = {}
        while not self._stop.is_set():
            lease = self._ledger.lease(self._attempt)
            if lease is None:
                break
            self._run_pack(mission, lease, artifacts)
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

    def _run_pack(self, mission: Mission, lease: Lease, artifacts: dict[Run, Artifact]) -> None:
        runs = {
            name: Run(mission=self._job.mission, arm=arm, seed=lease.seed)
            for name, arm in lease.runs
        }
        kept = self._checkpoints(lease)
        self._ctx.enter_pack(kept)
        log.info("%s: training (attempt %d)", lease.pack, lease.tries)
        self._ledger.start_pack(self._attempt, lease.pack)
        self._failed = False
        together = [runs[name] for name in lease.missing]
        for attempt in self._split_on_failure(mission, lease.pack, together, kept):
            for run, artifact in attempt.items():
                if self._stop.is_set():
                    break
                artifacts[run] = artifact
                if self._evaluate(mission, run.name, run, artifact) and kept is not None:
                    kept.forget(run.name)
        if kept is not None and kept.cost[0]:
            self._ledger.timing(self._job.mission, "checkpoint", lease.pack, *kept.cost)
        if self._stop.is_set():
            return
        if kept is not None and not self._failed:
            kept.forget_all()
        self._send_points()
        self._ledger.end_pack(self._attempt, lease.pack)

    def _checkpoints(self, lease: Lease) -> PackCheckpoints | None:
        every_s = self._job.checkpoint_every_s
        if not every_s:
            return None
        work = self._folder
        binding = {"code": self._code, "device": self._ctx.device.type}
        if self._share is not None:  # sums over a group of another size end in other bits
            binding["group"] = f"{self._share.strategy} of {self._share.world}"
        return PackCheckpoints(
            work / "checkpoints" / lease.pack,
            pack=lease.pack,
            keys=lease.keys,
            binding=binding,
            quarantine=work / "quarantine",
            every_s=every_s,
            alarm=lambda name, text: self._ledger.event("alarm", name, text),
            resumed=lambda name, text: self._ledger.event("info", name, text),
        )

    def _split_on_failure(
        self, mission: Mission, pack: str, runs: Sequence[Run], kept: PackCheckpoints | None
    ) -> Iterator[Mapping[Run, Artifact]]:
        """Artifacts of the runs together. Where that fails, of each alone: a run's outcome does not
        depend on its pack, so this finds whose failure it is, and needs less memory at a time."""
        try:
            yield self._train(mission, pack, runs, record=len(runs) == 1)
            return
        except _TogetherError as failed:
            reason = str(failed)
        self._ledger.event("warning", pack, f"{reason}; once more, run by run")
        for run in runs:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self._stop.is_set():
                return
            if kept is not None:
                kept.begin_again()
            yield self._train(mission, pack, [run], record=True)

    def _train(
        self, mission: Mission, pack: str, runs: Sequence[Run], *, record: bool
    ) -> Mapping[Run, Artifact]:
        """Artifacts of the runs; none where training was stopped, or failed and is recorded.

        Raises:
            _TogetherError: it failed, and is not to be recorded.
        """
        try:
            with self._timed("train", pack):
                trained = mission.train(self._spec, Pack(name=pack, runs=tuple(runs)), self._ctx)
            if self._stop.is_set():
                return {}
            absent = [run.name for run in runs if run not in trained]
            if absent:
                raise ValueError(f"train returned no artifact for {', '.join(absent)}.")
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            if self._stop.is_set():
                # A training that was cut short may trip over what it does not have: no failure.
                log.info("%s: stopped in training (%s)", pack, error)
                return {}
            _raise_if_not_the_missions(error)
            if not record:
                text = f"train: {reason_of(error)}"
                # What the frames of the failed call hold would be held through the next.
                tracebacks.clear_frames(error.__traceback__)
                raise _TogetherError(text) from None
            for run in runs:
                self._record_failure(run.name, "train", error)
            return {}
        return {run: trained[run] for run in runs}

    def _evaluate(self, mission: Mission, name: str, run: Run, artifact: Artifact) -> bool:
        """Scores a run and hands it over; whether it is done."""
        try:
            with self._timed("evaluate", name):
                scores = mission.evaluate(self._spec, run, artifact, "test", self._ctx)
                result = result_of(name, scores, artifact)
            self._copy(name, artifact)
            self._ledger.finish_run(self._attempt, result)
            log.info("%s: done, %d scores", name, len(scores))
            return True
        except KeyConflictError as error:
            self._ledger.event("alarm", name, str(error))
            self._record_failure(name, "hand over", error)
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            if self._stop.is_set():
                log.info("%s: stopped in evaluation (%s)", name, error)
                return False
            _raise_if_not_the_missions(error)
            self._record_failure(name, "evaluate", error)
        return False

    def _copy(self, name: str, artifact: Artifact) -> None:
        """Artifacts outlive the node before the run counts as done."""
        if self._job.storage and (self._share is None or self._share.leads):
            storage = Storage.at(self._job.storage, self._job.paths.run_id)
            storage.put_folder(f"artifacts/{name}", artifact.path)

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

    def _record_failure(self, run: str, stage: str, error: BaseException) -> None:
        log.exception("%s: %s failed", run, stage)
        self._failed = True
        self._ledger.fail_run(
            self._attempt,
            run,
            cause=cause_of_failure(error),
            reason=f"{stage}: {reason_of(error)}",
            traceback="".join(tracebacks.format_exception(error)),
        )

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
                drained = self._drained()
                if drained:
                    self._notice.give(drained)
            except Exception as error:  # noqa: BLE001 - raised again by `run`
                self._lost.append(error)
                self._stop.set()


class _TogetherError(Exception):
    """Training several runs together failed."""


def _raise_if_not_the_missions(error: Exception) -> None:
    """A full disk or a lost process of the group is no failure of the run's: the worker leaves,
    and the run is taken up again."""
    if is_disk_trouble(error):
        raise StorageError(f"{type(error).__name__}: {error}") from error
    if is_lost_peer(error):
        raise FleetError(f"another process of the worker group is gone: {error}") from error
