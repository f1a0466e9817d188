"""The contract between a mission and whoever runs it.

A mission prepares data, trains packs of runs and returns per-example scores. It knows neither
Ray nor the ledger: `missions.local` runs it in one process, the fleet's worker runs it on a
cluster, and both hand it the same `Context`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel

from bem.base import BaseModel as FrozenBase
from bem.distributed import Share
from bem.training_checkpoint import StageCheckpoints
from missions.errors import NotServableError
from missions.export import ExportedModel
from missions.spec import MissionSpec
from missions.split_lock import SplitLock
from stats.scores import ScoreTable
from stats.verdict import ArmCost

Split = Literal["dev", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One arm under one seed: the unit that is planned, leased, trained and judged."""

    mission: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.mission}-{self.arm}-s{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Runs that a worker trains together (by default all arms of one seed)."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seed(self) -> int:
        """The one seed of the pack.

        Raises:
            ValueError: if the pack mixes seeds.
        """
        seeds = {run.seed for run in self.runs}
        if len(seeds) != 1:
            raise ValueError(f"Pack {self.name!r} holds seeds {sorted(seeds)}; expected one.")
        return seeds.pop()


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What `prepare` made: the data's digest and the figures of its leak check."""

    data_digest: str
    """sha256 over the generated data, the same on every machine for the same specification."""
    leak_report: Mapping[str, int]
    """Name of each leak check -> number of leaked items found. Any non-zero entry: INVALID."""
    summary: Mapping[str, int] = field(default_factory=dict)
    """Counts worth showing: items per split, records, queries per type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """What one run left behind."""

    path: Path
    """Folder with safetensors and JSON only; `evaluate` must need nothing else."""
    cost: ArmCost
    """Measured size of the arm: parity is judged on it."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Diagnostics for the report (final loss, code variance, shuffled-code gap, CPU seconds)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportTable:
    """A table that a mission lends to the report."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFigure:
    """Line plots that a mission lends to the report: label -> (xs, ys)."""

    title: str
    caption: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    log2_x: bool = False


class Context(ABC):
    """What the runner lends to a mission."""

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def data_dir(self) -> Path:
        """Folder of this mission's generated data; filled by `prepare`, read by the rest."""

    @abstractmethod
    def artifact_dir(self, run: Run) -> Path:
        """Fresh folder for the artifact of one run (created)."""

    @abstractmethod
    def base(self) -> FrozenBase:
        """The frozen base model and tokenizer of the specification, loaded once a worker."""

    @abstractmethod
    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Records scalars of a run (TensorBoard and ledger). Cheap, but not for every step."""

    @property
    @abstractmethod
    def lock(self) -> SplitLock:
        """Guards the scores of the test split; `Mission.evaluate` passes through it."""

    @abstractmethod
    def should_stop(self) -> bool:
        """True when the worker must leave soon; training loops ask between steps."""

    @property
    def share(self) -> Share | None:
        """This process's part where a group trains each run together (`resources.strategy`)."""
        return None

    def checkpoints(self, stage: str, run: Run | None = None) -> StageCheckpoints | None:
        """Where `bem.training.fit` keeps a training stage, of `run` or shared by the pack's arms.

        A stage has one name in its pack. None where the runner keeps no checkpoints.
        """
        return None


def _through_the_lock(evaluate: Callable[..., ScoreTable]) -> Callable[..., ScoreTable]:
    """`evaluate` that asks the context's lock before it scores the test split."""

    @functools.wraps(evaluate)
    def locked(
        self: Mission, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        if split == "test":
            ctx.lock.open_test(
                mission=run.mission,
                arm=run.arm,
                seed=run.seed,
                arm_hash=spec.arm_digest(run.arm),
            )
        return evaluate(self, spec.seen_by(run.arm), run, artifact, split, ctx)

    return locked


class _GroupContext(Context):
    """The context of some arms of a pack: what these share is not what all of the pack share."""

    def __init__(self, ctx: Context, params: Mapping[str, Any]) -> None:
        """`params`: what the group's arms share. It names the group's stages, for the place of a
        group in its pack differs with the runs that are missing."""
        self._ctx = ctx
        text = json.dumps(params, sort_keys=True)
        self._group = hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def device(self) -> torch.device:
        return self._ctx.device

    @property
    def data_dir(self) -> Path:
        return self._ctx.data_dir

    def artifact_dir(self, run: Run) -> Path:
        return self._ctx.artifact_dir(run)

    def base(self) -> FrozenBase:
        return self._ctx.base()

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self._ctx.log(run, step, metrics)

    @property
    def lock(self) -> SplitLock:
        return self._ctx.lock

    def should_stop(self) -> bool:
        return self._ctx.should_stop()

    @property
    def share(self) -> Share | None:
        return self._ctx.share

    def checkpoints(self, stage: str, run: Run | None = None) -> StageCheckpoints | None:
        name = f"g{self._group}_{stage}" if run is None else stage
        return self._ctx.checkpoints(name, run)


def _arms_as_they_are(train: Callable[..., Mapping[Run, Artifact]]) -> Callable[..., Any]:
    """`train` that sees each arm's settings: runs whose `params` agree are trained together."""

    @functools.wraps(train)
    def grouped(
        self: Mission, spec: MissionSpec, pack: Pack, ctx: Context
    ) -> Mapping[Run, Artifact]:
        if not any(spec.arms[run.arm].override for run in pack.runs):
            return train(self, spec, pack, ctx)
        groups: list[tuple[MissionSpec, list[Run]]] = []
        for run in pack.runs:
            seen = spec.seen_by(run.arm)
            for known, runs in groups:
                if known.params == seen.params:
                    runs.append(run)
                    break
            else:
                groups.append((seen, [run]))
        found: dict[Run, Artifact] = {}
        for seen, runs in groups:
            group = Pack(name=f"{pack.name}.{runs[0].arm}", runs=tuple(runs))
            found |= train(self, seen, group, _GroupContext(ctx, seen.params))
        return found

    return grouped


class Mission(ABC):
    """One research mission. Subclasses are final and live one a folder under `missions/`.

    The `evaluate` of every subclass is put behind the context's lock when the class is made: a
    sweep or a `train` that reaches for test scores is refused by the code, not by a convention.
    `train` and `evaluate` see the `params` of the arms at hand, an arm's `override` included.
    """

    id: ClassVar[str]
    params_model: ClassVar[type[BaseModel]]
    """Pydantic model (`extra="forbid", frozen=True`) that parses `params:` of mission.yaml."""
    strategies: ClassVar[tuple[str, ...]] = ("packed",)
    """What `resources.strategy` may be; one that trains with `ctx.share` names ddp and fsdp."""
    seed_figure: ClassVar[str] = "final_loss"
    """Figure of `Artifact.figures` whose median names the seed that is served; never of test."""
    arm_model: ClassVar[type[BaseModel] | None] = None
    """Pydantic model of an arm's own `params`, where arms have any that a sweep may search."""
    tunable: ClassVar[tuple[str, ...]] = ()
    """Parts of `params` that one arm may have otherwise than another: nothing that makes data."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "evaluate" in cls.__dict__:
            setattr(cls, "evaluate", _through_the_lock(cls.__dict__["evaluate"]))  # noqa: B010
        if "train" in cls.__dict__:
            setattr(cls, "train", _arms_as_they_are(cls.__dict__["train"]))  # noqa: B010

    @abstractmethod
    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        """Generates all data below `ctx.data_dir` from `spec.data_seed`; idempotent.

        Test items carry the same example ids for every arm and every seed: the design is fully
        crossed (seeds x examples), which the two-way analysis needs.
        """

    @abstractmethod
    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        """Trains every run of the pack. Work that arms share may be done once.

        A run's outcome must not depend on which other runs are in the pack: after a failure the
        missing ones come alone. It must come out bit for bit the same when the training was
        interrupted at any step and goes on from `ctx.checkpoints`.
        """

    @abstractmethod
    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        """Scores one run on one split: per-example rows, never means.

        Raises:
            LockedSplitError: `test`, and the arm's settings are not the ones that were frozen.
        """

    def report_extras(
        self, spec: MissionSpec, ctx: Context, artifacts: Mapping[Run, Artifact], scores: ScoreTable
    ) -> Sequence[ReportTable | ReportFigure]:
        """Tables and curves beyond the gates (none by default)."""
        return ()

    def export(
        self, spec: MissionSpec, run: Run, artifact: Artifact, folder: Path, ctx: Context
    ) -> ExportedModel:
        """Writes the run's arm into the empty `folder` as a model to serve (see missions.export).

        Raises:
            NotServableError: the arm is no model (or the mission never says how it would be one).
        """
        raise NotServableError(f"Mission {spec.id} does not say how arm '{run.arm}' is served.")
