"""A real A/A campaign: a mission whose two arms are the same adapter, trained on fresh seeds.

A catalogue like `missions.registry` with one mission, AA. Its arms `left` and `right` are one arm
of mission E under two names. Both are trained and scored by mission E's own code; `right` takes its
randomness from other seeds, for with equal ones two equal arms are equal to the last bit. What
comes out goes the way of every launch: ledger, lock, stats actor, verdict. Knows no Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import BaseModel

from bem.base import BaseModel as FrozenBase
from missions.errors import UnknownMissionError
from missions.protocol import Artifact, Context, Mission, Pack, Prepared, Run, Split
from missions.registry import load_mission as load_registered
from missions.registry import resolve as resolve_registered
from missions.spec import MissionSpec, parse_spec
from missions.split_lock import LocalLock, SplitLock
from stats.costs import ArmCost
from stats.scores import ScoreTable

ID = "AA"
INNER, ARM = "E", "kv_slots"
LEFT, RIGHT = "left", "right"
SHIFT = 1_000_000
"""Added to the seeds of `right`: no two trainings of a campaign share one."""
METRIC = "acc@512"


class _InnerContext(Context):
    """The outer context as the inner mission sees it.

    Its lock is open for the inner arm: each outer evaluation has passed the real lock already.
    """

    def __init__(self, outer: Context, spec: MissionSpec) -> None:
        self._outer = outer
        self._lock = LocalLock()
        self._lock.freeze(spec.id, {arm: spec.arm_digest(arm) for arm in spec.arms})

    @property
    def device(self) -> torch.device:
        return self._outer.device

    @property
    def data_dir(self) -> Path:
        return self._outer.data_dir

    def artifact_dir(self, run: Run) -> Path:
        return self._outer.artifact_dir(run)

    def base(self) -> FrozenBase:
        return self._outer.base()

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self._outer.log(_outer_run(run), step, metrics)

    @property
    def lock(self) -> SplitLock:
        return self._lock

    def should_stop(self) -> bool:
        return self._outer.should_stop()


class TwinMission(Mission):
    """Mission E's control against itself."""

    id: ClassVar[str] = ID

    def __init__(self) -> None:
        self._inner = load_registered(INNER)
        self.params_model: type[BaseModel] = self._inner.params_model  # type: ignore[misc]

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        inner = _inner_spec(spec)
        return self._inner.prepare(inner, _InnerContext(ctx, inner))

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        inner = _inner_spec(spec)
        made: dict[Run, Artifact] = {}
        for run in pack.runs:
            within = _inner_run(run)
            trained = self._inner.train(
                inner, Pack(name=within.name, runs=(within,)), _InnerContext(ctx, inner)
            )[within]
            made[run] = Artifact(
                path=trained.path, cost=_renamed(trained, run.arm), figures=trained.figures
            )
        return made

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        inner = _inner_spec(spec)
        scores = self._inner.evaluate(
            inner, _inner_run(run), artifact, split, _InnerContext(ctx, inner)
        )
        return ScoreTable(scores.frame.assign(arm=run.arm, seed=run.seed))


def load_mission(mission_id: str) -> Mission:
    """The one mission of this catalogue."""
    if mission_id != ID:
        raise UnknownMissionError(f"Unknown mission {mission_id!r}. Known: {ID}.")
    return TwinMission()


def resolve(
    mission_id: str, *, profile: str = "smoke", overrides: tuple[str, ...] = ()
) -> MissionSpec:
    """The A/A specification made of mission E's; `--set` changes E's file before that."""
    load_mission(mission_id)
    spec = resolve_registered(INNER, profile=profile, overrides=overrides)
    arm = spec.arms[ARM].model_dump(mode="json")
    document = spec.model_dump(mode="json") | {
        "id": ID,
        "title": f"A/A campaign: {ARM} of mission {INNER} against itself",
        "hypothesis": "None: the arms do not differ.",
        "claim": "none",
        "estimand": f"difference in {METRIC} between two trainings of the same arm",
        "arms": {
            LEFT: {**arm, "role": "treatment"},
            RIGHT: {**arm, "role": "control", "note": "the same, on other seeds"},
        },
        "gates": [
            {
                "id": "no_difference",
                "kind": "superiority",
                "metric": METRIC,
                "treatment": LEFT,
                "versus": RIGHT,
                "primary": True,
                "note": "passes by chance in 2.5 % of such campaigns",
            }
        ],
        "parity": {"pairs": [[LEFT, RIGHT]]},
        "withhold_verdict": None,
    }
    return parse_spec(document, f"A/A of mission {INNER}")


def _inner_spec(spec: MissionSpec) -> MissionSpec:
    seeds = (*spec.seeds, *(seed + SHIFT for seed in spec.seeds))
    return spec.model_copy(
        update={"id": INNER, "arms": {ARM: spec.arms[LEFT]}, "seeds": seeds, "gates": ()}
    )


def _inner_run(run: Run) -> Run:
    return Run(mission=INNER, arm=ARM, seed=run.seed + (SHIFT if run.arm == RIGHT else 0))


def _outer_run(run: Run) -> Run:
    if run.seed >= SHIFT:
        return Run(mission=ID, arm=RIGHT, seed=run.seed - SHIFT)
    return Run(mission=ID, arm=LEFT, seed=run.seed)


def _renamed(artifact: Artifact, arm: str) -> ArmCost:
    return dataclasses.replace(artifact.cost, arm=arm)
