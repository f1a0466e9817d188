"""One trial: train one setting of one arm under the sweep seeds and score it on dev.

The test split stays locked here whatever the mission does: the lock of a trial is never opened.
Data come from the rung alone, so no setting can change what it is scored on. Knows no Ray.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
import traceback as tracebacks
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch

from bem.base import BaseModel as FrozenBase
from bem.distributed import Share
from fleet.errors import FleetError, StorageError, SweepError
from fleet.keys import canonical_digest
from fleet.policies import Cause
from fleet.sweep.records import Trial, TrialRow
from fleet.workers.failures import cause_of_failure, is_disk_trouble, is_lost_peer, reason_of
from missions.protocol import Mission, Pack, Run
from missions.settings import with_rung, with_settings
from missions.spec import MissionSpec
from missions.split_lock import LocalLock
from missions.workdir import WorkdirContext
from stats.verdict import ArmCost

log = logging.getLogger("fleet.sweep")


def trial_spec(spec: MissionSpec, trial: Trial) -> MissionSpec:
    """The specification that a trial trains and scores: rung, settings, sweep seeds."""
    return with_settings(rung_spec(spec, trial.rung), trial.arm, trial.settings)


def rung_spec(spec: MissionSpec, rung: int) -> MissionSpec:
    """The specification at a rung, under the sweep seeds and without rules of the confirmation."""
    assert spec.sweep is not None, "only a mission with a sweep has rungs"
    document = spec.model_dump(mode="json")
    document |= {
        "seeds": list(spec.sweep.seeds),
        "sweep": None,
        "looks": None,
        "futility": None,
        "withhold_verdict": "a trial of a sweep",
    }
    return with_rung(MissionSpec.model_validate(document), spec.sweep.rungs[rung])


def trial_key(spec: MissionSpec, trial: Trial, code_version: str) -> str:
    """The identity of a trial's score. The number of trials is no part of it: a longer search
    finds the rows of a shorter one.
    """
    assert spec.sweep is not None, "only a mission with a sweep has trials"
    tried = trial_spec(spec, trial)
    parts = {
        "trial of": spec.id,
        "arm": trial.arm,
        "arm_hash": tried.arm_digest(trial.arm),
        "seeds": list(tried.seeds),
        "data": [tried.data_seed, tried.examples.model_dump(mode="json"), tried.base_model],
        "metric": spec.sweep.metric,
        "code": code_version,
    }
    return canonical_digest(parts)


class TrialContext(WorkdirContext):
    """Context of the trials of one rung in one process. Its test split never opens."""

    def __init__(
        self,
        spec: MissionSpec,
        workdir: Path,
        device: torch.device,
        *,
        base: FrozenBase | None,
        share: Share | None,
    ) -> None:
        super().__init__(spec, workdir, device)
        self._base = base
        self._share = share
        self._lock = LocalLock()
        self.artifacts = workdir

    @property
    def base_if_loaded(self) -> FrozenBase | None:
        """The base, where something has asked for it."""
        return self._base

    def base(self) -> FrozenBase:
        if self._base is None:
            base = super().base()
            if self._share is not None:
                self._share.shard(base)
        return super().base()

    @property
    def share(self) -> Share | None:
        return self._share

    def artifact_dir(self, run: Run) -> Path:
        path = self.artifacts / run.name
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        return path

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Curves of trials are not kept: a trial is its score."""

    @property
    def lock(self) -> LocalLock:
        return self._lock

    def should_stop(self) -> bool:
        return False


class Bench:
    """Where one process runs a mission's trials: base and data are made ready once."""

    def __init__(
        self,
        spec: MissionSpec,
        mission: Mission,
        workdir: Path,
        *,
        code_version: str,
        device: torch.device,
        share: Share | None = None,
    ) -> None:
        """`share`: this process's part where a group trains each trial together."""
        self._spec = spec
        self._mission = mission
        self._workdir = workdir
        self._code_version = code_version
        self._device = device
        self._share = share
        self._contexts: dict[int, TrialContext] = {}
        self._base: FrozenBase | None = None

    def key(self, trial: Trial) -> str:
        """See `trial_key`."""
        return trial_key(self._spec, trial, self._code_version)

    def run(self, trial: Trial) -> TrialRow:
        """Trains and scores. An error of the mission's code is a failed trial, not an exception.

        Raises:
            StorageError: the disk is full or broken.
            SweepError: memory ran out, or another process of the worker group is gone. Like a
                full disk it says nothing of the settings for good, so there is no row: the trial
                is to be tried again.
        """
        wall, cpu = time.monotonic(), time.process_time()
        seed_scores: dict[int, float] = {}
        cost: dict[str, float] = {}
        error = traceback = ""
        key = self.key(trial)
        folder = self._workdir / "trials" / key[:16]
        try:
            seed_scores, cost = self._scores(trial, folder)
        except FleetError:
            raise
        except Exception as caught:
            self._raise_if_not_the_settings(trial, caught)
            log.exception("%s: trial %d of arm %s failed", self._spec.id, trial.number, trial.arm)
            error = f"{type(caught).__name__}: {caught}"
            traceback = "".join(tracebacks.format_exception(caught))
            seed_scores = {}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return TrialRow(
            key=key,
            mission=self._spec.id,
            arm=trial.arm,
            number=trial.number,
            rung=trial.rung,
            settings=dict(trial.settings),
            seed_scores=seed_scores,
            cost=cost,
            error=error,
            traceback=traceback,
            cpu_s=time.process_time() - cpu,
            wall_s=time.monotonic() - wall,
        )

    def _raise_if_not_the_settings(self, trial: Trial, error: Exception) -> None:
        if is_disk_trouble(error):
            raise StorageError(f"{type(error).__name__}: {error}") from error
        which = f"{self._spec.id}, trial {trial.number + 1} of arm {trial.arm}"
        if is_lost_peer(error):
            why = f"another process of the worker group is gone: {reason_of(error)}"
            raise SweepError(f"{which}: {why}") from error
        if cause_of_failure(error) is Cause.OOM:
            raise SweepError(f"{which}: {reason_of(error)}") from error

    def _scores(self, trial: Trial, folder: Path) -> tuple[dict[int, float], dict[str, float]]:
        """(sweep seed -> mean of the metric over dev items, size of the arm)."""
        assert self._spec.sweep is not None, "only a mission with a sweep has trials"
        metric = self._spec.sweep.metric
        ctx = self._context(trial.rung)
        ctx.artifacts = folder
        spec = trial_spec(self._spec, trial)
        scores: dict[int, float] = {}
        cost: dict[str, float] = {}
        for seed in spec.seeds:
            run = Run(mission=spec.id, arm=trial.arm, seed=seed)
            pack = Pack(name=f"{spec.id}-{trial.arm}-s{seed}", runs=(run,))
            artifact = self._mission.train(spec, pack, ctx)[run]
            frame = self._mission.evaluate(spec, run, artifact, "dev", ctx).frame
            values = frame.loc[(frame["metric"] == metric) & (frame["arm"] == trial.arm), "value"]
            if values.empty:
                known = ", ".join(sorted(frame["metric"].unique()))
                raise ValueError(f"no scores of metric {metric!r} on dev. Known: {known}.")
            scores[seed] = float(values.mean())
            if not math.isfinite(scores[seed]):
                raise ValueError(f"{metric} under seed {seed} is {scores[seed]}")
            cost = _figures(artifact.cost)
        return scores, cost

    def _context(self, rung: int) -> TrialContext:
        if rung not in self._contexts:
            spec = rung_spec(self._spec, rung)
            ctx = TrialContext(
                spec,
                self._workdir / f"rung-{rung}",
                self._device,
                base=self._base,
                share=self._share,
            )
            self._mission.prepare(spec, ctx)
            self._base = ctx.base_if_loaded
            self._contexts[rung] = ctx
        return self._contexts[rung]


def _figures(cost: ArmCost) -> dict[str, float]:
    found = {item.name: getattr(cost, item.name) for item in fields(cost) if item.name != "arm"}
    return {name: float(value) for name, value in found.items() if value is not None}
