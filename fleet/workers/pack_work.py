"""A leased pack: its runs trained together, evaluated one by one, and handed over.

Where the training of several fails, each is trained alone, so that a failure is recorded for the
run whose it is. An error of the mission's own code is such a failure; a full disk, or a lost
process of the worker group, leaves as an exception. Knows no Ray.
"""

from __future__ import annotations

import gc
import logging
import threading
import traceback as tracebacks
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from fleet import provenance
from fleet.errors import FleetError, KeyConflictError, StorageError
from fleet.ledger.records import Lease
from fleet.storage import Storage
from fleet.workers.context import WorkerContext
from fleet.workers.failures import (
    cause_of_failure,
    is_disk_trouble,
    is_lost_peer,
    reason_of,
)
from fleet.workers.handover import result_of
from fleet.workers.job import WorkerJob
from fleet.workers.worker_ledger import WorkerLedger
from missions.checkpoints import PackCheckpoints
from missions.protocol import Artifact, Mission, Pack, Run
from missions.spec import MissionSpec

log = logging.getLogger("fleet.workers.pack_work")


class PackWork:
    """The packs of one mission in one worker."""

    def __init__(
        self,
        job: WorkerJob,
        ledger: WorkerLedger,
        ctx: WorkerContext,
        *,
        attempt: str,
        folder: Path,
        stop: threading.Event,
        timed: Callable[[str, str], AbstractContextManager[None]],
    ) -> None:
        """
        Args:
            folder: where checkpoints are kept.
            stop: once it is set, what is at work is left as it stands.
        """
        self._job = job
        self._ledger = ledger
        self._ctx = ctx
        self._attempt = attempt
        self._folder = folder
        self._stop = stop
        self._timed = timed
        self._share = ctx.share
        self._spec = MissionSpec.model_validate_json(job.spec_json)
        self._code = provenance.code_version()
        self._failed = False
        """Whether a run of the pack at hand has failed."""

    def carry_out(self, mission: Mission, lease: Lease) -> None:
        """Trains and evaluates what is missing of a pack; it is not ended where we were stopped."""
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
                if self._evaluate(mission, run, artifact) and kept is not None:
                    kept.forget(run.name)
        if kept is not None and kept.cost[0]:
            self._ledger.timing(self._job.mission, "checkpoint", lease.pack, *kept.cost)
        if self._stop.is_set():
            return
        if kept is not None and not self._failed:
            kept.forget_all()
        send_points(self._ctx, self._ledger)
        self._ledger.end_pack(self._attempt, lease.pack)

    def _checkpoints(self, lease: Lease) -> PackCheckpoints | None:
        every_s = self._job.checkpoint_every_s
        if not every_s:
            return None
        binding = {"code": self._code, "device": self._ctx.device.type}
        if self._share is not None:  # sums over a group of another size end in other bits
            binding["group"] = f"{self._share.strategy} of {self._share.world}"
        return PackCheckpoints(
            self._folder / "checkpoints" / lease.pack,
            pack=lease.pack,
            keys=lease.keys,
            binding=binding,
            quarantine=self._folder / "quarantine",
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

    def _evaluate(self, mission: Mission, run: Run, artifact: Artifact) -> bool:
        """Scores a run and hands it over; whether it is done."""
        name = run.name
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


def send_points(ctx: WorkerContext, ledger: WorkerLedger) -> None:
    """The scalars that were logged since the last time, in one batch."""
    points = ctx.take_points()
    if points:
        ledger.log_points(points)


class _TogetherError(Exception):
    """Training several runs together failed."""


def _raise_if_not_the_missions(error: Exception) -> None:
    """A full disk or a lost process of the group is no failure of the run's: the worker leaves,
    and the run is taken up again."""
    if is_disk_trouble(error):
        raise StorageError(f"{type(error).__name__}: {error}") from error
    if is_lost_peer(error):
        raise FleetError(f"another process of the worker group is gone: {error}") from error
