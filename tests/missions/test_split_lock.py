"""The lock on the test split: closed until frozen, closed again for an arm that changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import BaseModel

from missions.errors import LockedSplitError
from missions.local import LocalContext, run_local
from missions.protocol import Artifact, Context, Mission, Pack, Prepared, Run, Split
from missions.registry import mission_files
from missions.spec import MissionSpec, load_spec, parse_spec
from missions.split_lock import LocalLock, SplitRead
from stats.scores import ScoreTable
from stats.verdict import ArmCost


class NoParams(BaseModel):
    peek: bool = False
    strength: float = 0.0


class Peeking(Mission):
    """Scores arms with one number; with `peek`, its training reaches for the test split."""

    id: ClassVar[str] = "P"
    params_model = NoParams

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        return Prepared(data_digest="d", leak_report={})

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        made = {}
        for run in pack.runs:
            cost = ArmCost(arm=run.arm, trainable_params=1, adapter_params=1, forward_flops=1.0)
            made[run] = Artifact(path=ctx.artifact_dir(run), cost=cost)
            if NoParams.model_validate(spec.params).peek:
                changed = spec.model_copy(update={"params": {"peek": True, "strength": 9.0}})
                self.evaluate(changed, run, made[run], "test", ctx)
            self.evaluate(spec, run, made[run], "dev", ctx)
        return made

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        ids = [f"{split}-{at}" for at in range(4)]
        values = [float((at + run.seed + len(run.arm)) % 2) for at in range(4)]
        return ScoreTable.from_columns(
            arm=run.arm, seed=run.seed, example_id=ids, metric="em", value=values
        )


def spec_of(**params: object) -> MissionSpec:
    return parse_spec(
        {
            "id": "P",
            "title": "t",
            "hypothesis": "h",
            "claim": "c",
            "estimand": "e",
            "seeds": [0, 1],
            "examples": {"train": 1, "dev": 4, "test": 4},
            "arms": {
                "new": {"role": "treatment", "adapter": "none"},
                "plain": {"role": "control", "adapter": "none"},
            },
            "params": params,
            "gates": [
                {
                    "id": "better",
                    "kind": "superiority",
                    "metric": "em",
                    "treatment": "new",
                    "versus": "plain",
                    "primary": True,
                }
            ],
            "parity": {"pairs": []},
        },
        "test",
    )


def artifact() -> Artifact:
    cost = ArmCost(arm="new", trainable_params=1, adapter_params=1, forward_flops=1.0)
    return Artifact(path=Path("/nowhere"), cost=cost)


def test_test_scores_are_locked_until_the_arms_are_frozen_and_dev_never_is(tmp_path: Path) -> None:
    spec, mission = spec_of(), Peeking()
    ctx = LocalContext(spec, tmp_path, torch.device("cpu"))
    run = Run(mission="P", arm="new", seed=0)
    assert len(mission.evaluate(spec, run, artifact(), "dev", ctx)) == 4
    with pytest.raises(LockedSplitError, match="Mission P, arm 'new': the test split is locked"):
        mission.evaluate(spec, run, artifact(), "test", ctx)
    assert ctx.lock.reads == ()
    ctx.freeze()
    assert len(mission.evaluate(spec, run, artifact(), "test", ctx)) == 4
    digest = spec.arm_digest("new")
    assert ctx.lock.reads == (SplitRead(mission="P", arm="new", seed=0, arm_hash=digest),)


def test_an_arm_that_changed_after_a_read_stays_locked_and_cannot_be_frozen_anew(
    tmp_path: Path,
) -> None:
    spec, mission = spec_of(), Peeking()
    ctx = LocalContext(spec, tmp_path, torch.device("cpu"))
    ctx.freeze()
    run = Run(mission="P", arm="new", seed=0)
    mission.evaluate(spec, run, artifact(), "test", ctx)
    changed = spec_of(strength=2.0)
    with pytest.raises(LockedSplitError, match=r"settings changed .* after 1 reads"):
        mission.evaluate(changed, run, artifact(), "test", ctx)
    with pytest.raises(LockedSplitError, match="after 1 reads"):
        ctx.lock.freeze("P", {"new": changed.arm_digest("new")})
    ctx.lock.freeze("P", {"new": spec.arm_digest("new")})
    assert len(ctx.lock.reads) == 1


def test_before_any_read_an_arm_may_be_frozen_anew() -> None:
    lock = LocalLock()
    lock.freeze("P", {"new": "a" * 64})
    lock.freeze("P", {"new": "b" * 64})
    with pytest.raises(LockedSplitError, match="before any read"):
        lock.open_test(mission="P", arm="new", seed=0, arm_hash="a" * 64)
    lock.open_test(mission="P", arm="new", seed=0, arm_hash="b" * 64)


def test_a_training_that_peeks_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LockedSplitError, match="settings changed since they were frozen"):
        run_local(Peeking(), spec_of(peek=True), tmp_path)
    assert run_local(Peeking(), spec_of(), tmp_path).scores.seeds == (0, 1)


def test_every_mission_says_whether_its_items_are_clustered() -> None:
    declared = {name: load_spec(path).clusters for name, path in mission_files().items()}
    assert all(declared.values()), declared
