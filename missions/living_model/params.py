"""Settings of mission B as they stand under `params:` of mission.yaml and of its arms."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bem.online import CanaryConfig, LearnerConfig
from missions.living_model.feedback import FeedbackConfig
from missions.living_model.formats import INJECTIONS, Injection


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamParams(_Strict):
    """The live stream."""

    injections: dict[Injection, int]
    """Injection -> number of the first prompt that it holds for."""
    poison: tuple[int, int]
    """First and one-past-last prompt of the poisoned burst."""
    stay: float = Field(default=0.3, ge=0, lt=1)
    """Chance that the next prompt is of the same task."""
    prompts_per_update: int = Field(default=5, ge=1)
    """Prompts that are served, and scored, between two updates."""
    cluster: int = Field(default=50, ge=1)
    """Neighbouring prompts that count as one cluster in the statistics."""
    settle: int = Field(default=100, ge=0)
    """Prompts after the burst in which a rollback still counts as an answer to it: its longest
    feedback delay and one canary period."""

    @model_validator(mode="after")
    def _complete(self) -> StreamParams:
        missing = sorted(set(INJECTIONS) - set(self.injections))
        if missing or not self.poison[0] < self.poison[1]:
            raise ValueError(f"injections lack {missing} or poison {self.poison} is empty")
        return self


class StartParams(_Strict):
    """Training of the start adapter, once a seed."""

    rank: int = Field(ge=1)
    alpha: float = Field(default=16.0, gt=0)
    controller_width: int = Field(default=16, ge=1)
    pool: Literal["attention", "mean", "last"] = "attention"
    """How the controller pools prompt positions."""
    feature_layer: int = Field(default=0, ge=0)
    """The controller reads the input of this layer; layers before it are not adapted."""
    targets: str | tuple[str, ...] = "all-linear"
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    controller_lr_scale: float = Field(default=0.2, gt=0)
    bf16: bool = False


class FixParams(_Strict):
    """When an injected failure counts as fixed."""

    window: int = Field(default=20, ge=1)
    """Prompts of the behaviour over which exact match is averaged."""
    threshold: float = Field(gt=0, le=1)
    """Least mean exact match in the window."""
    censor: int = Field(default=1000, ge=1)
    """Stream prompts after the injection at which observation ends."""


class MemoryParams(_Strict):
    """The correction memory."""

    radius: float = Field(default=0.5, gt=0)
    """Reach of a record, relative to the median distance between the codes of tags."""
    votes: int = Field(default=5, ge=1)
    """Most recent records in reach that vote."""
    capacity: int = Field(default=1000, ge=1)
    """Records held."""
    trials: int = Field(default=2, ge=1)
    """Failed corrections for which the other codes are tried at one update, the newest first."""


class ArmParams(_Strict):
    """What an arm may change while the stream runs."""

    update: Literal["none", "controller", "all", "memory"]
    lr: float | None = Field(default=None, gt=0)
    """Learning rate of the online updates; needed by `controller` and `all`."""

    @model_validator(mode="after")
    def _rate(self) -> ArmParams:
        if (self.lr is None) == (self.update in ("controller", "all")):
            raise ValueError(f"update {self.update!r} and lr {self.lr} do not go together")
        return self


class LivingModelParams(_Strict):
    """Everything under `params:`."""

    stream: StreamParams
    feedback: FeedbackConfig
    start: StartParams
    learner: LearnerConfig
    """Shared by every arm; an arm's own `lr` replaces the one here."""
    memory: MemoryParams = MemoryParams()
    canary: CanaryConfig
    num_canary: int = Field(ge=1)
    num_retention: int = Field(ge=1)
    initial_replay: int = Field(default=512, ge=1)
    """Items of the initial family that seed the replay reservoir."""
    min_start_score: float = Field(default=0.0, ge=0, le=1)
    """Least canary score of a start adapter; under it the run fails: nothing to keep alive."""
    fix: FixParams
