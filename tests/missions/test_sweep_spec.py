"""The `sweep:` section of a mission file: what is accepted, and what the errors say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from missions.checkpoints import PackCheckpoints
from missions.errors import SpecError
from missions.local import LocalContext
from missions.protocol import Artifact, Context, Mission, Pack, Prepared, Run, Split
from missions.registry import mission_files, resolve
from missions.settings import with_rung, with_settings
from missions.spec import MissionSpec, parse_spec
from missions.sweep_check import check_overrides, check_sweep, file_settings
from stats.scores import ScoreTable


class Training(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(default=0.002, gt=0)
    steps: int = Field(default=80, ge=1)


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: int = 3
    training: Training = Training()


class ArmParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = 0.1


class Recorder(Mission):
    """Remembers how it was asked to train."""

    id = "T"
    params_model = Params
    arm_model = ArmParams
    tunable = ("training",)

    def __init__(self) -> None:
        self.trained: list[tuple[str, tuple[str, ...], Any]] = []

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        raise NotImplementedError

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        self.trained.append((pack.name, tuple(run.arm for run in pack.runs), spec.params))
        return {}

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        raise NotImplementedError


SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 4,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.02}},
    "arms": {"treated": {}, "plain": {}},
}


class SharesAStage(Recorder):
    """Trains a stage that its runs share, and remembers what an earlier training left there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[float, float | None] = {}

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        rate = Params.model_validate(spec.params).training.lr
        stage = ctx.checkpoints("together")
        assert stage is not None
        before = stage.newest()
        self.found[rate] = None if before is None else before.state["rate"]
        stage.save(1, {"rate": rate}, finished=True)
        return {}


def document(**sweep: Any) -> dict[str, Any]:
    return {
        "id": "T",
        "title": "t",
        "hypothesis": "h",
        "claim": "c",
        "estimand": "e",
        "seeds": [0, 1],
        "examples": {"train": 10, "dev": 10, "test": 10},
        "arms": {
            "treated": {"role": "treatment", "adapter": "none"},
            "plain": {"role": "control", "adapter": "none"},
            "extra": {"role": "ablation", "adapter": "none"},
        },
        "gates": [
            {
                "id": "g",
                "kind": "superiority",
                "metric": "em",
                "treatment": "treated",
                "versus": "plain",
                "primary": True,
            }
        ],
        "parity": {"pairs": [["treated", "plain"]]},
        "sweep": {**SWEEP, **sweep},
    }


def spec(**sweep: Any) -> MissionSpec:
    return parse_spec(document(**sweep), "t.yaml")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"arms": {"treeted": {}, "plain": {}}}, r"sweep.arms.treeted names arm 'treeted'; known arms"),
    ({"arms": {"treated": {}}}, "control 'plain' is not tuned while others are"),
    ({"seeds": [1, 100]}, r"sweep.seeds and seeds share \[1\]"),
    ({"trials": 1}, "sweep.trials"),
    ({"space": {"params.training.lr": {"kind": "uniform", "low": 1, "high": 1}}}, "is empty"),
    ({"space": {"params.training.lr": {"kind": "loguniform", "low": 0, "high": 1}}}, "must be > 0"),
    (
        {"space": {"params.training.lr": {"kind": "int", "low": 3, "high": 2}}},
        "from 3 to 2 is empt",
    ),
    (
        {"space": {"training.lr": {"kind": "uniform", "low": 0, "high": 1}}},
        "expected params.a.b or",
    ),
    ({"space": {"params.x": {"kind": "normal", "low": 0, "high": 1}}}, "sweep.space.params.x"),
    ({"space": {}}, "arms.treated searches nothing"),
    ({"trails": 3}, r"unknown key 'trails'.*Did you mean 'trials'"),
    ({"rungs": [{"seeds": [3]}]}, r"rungs\[0\] sets 'seeds'"),
    ({"rungs": [{"params.training.lr": 1}, {}]}, "searched and set by rungs"),
    ({"rungs": [{}, {}]}, "rungs must differ"),
    ({"follow": {"extra": ["extra"]}}, r"sweep.follow.extra names \['extra'\]"),
    ({"untuned": {"plain": "why"}}, "more than one of arms, follow, untuned"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec(**change)


CHECKED: list[tuple[dict[str, Any], str]] = [
    (
        {"space": {"params.training.lrr": {"kind": "uniform", "low": 0, "high": 1}}},
        r"params.training.lrr: unknown setting 'lrr'. Did you mean 'lr'\? Known: lr, steps",
    ),
    (
        {"space": {"params.trainning.lr": {"kind": "uniform", "low": 0, "high": 1}}},
        "unknown setting 'trainning'. Did you mean 'training'",
    ),
    (
        {"space": {"params.corpus": {"kind": "int", "low": 1, "high": 4}}},
        "mission T shares 'corpus' among its arms; an arm may have its own training",
    ),
    (
        {"space": {"params.training.lr": {"kind": "uniform", "low": 0.01, "high": 1}}},
        "the file's own setting 0.002 is outside the range",
    ),
    (
        {"space": {"params.training.lr": {"kind": "uniform", "low": -1, "high": 1}}},
        r"params.training.lr = -1.0: .*greater than 0",
    ),
    ({"rungs": [{"params.training.step": 3}]}, r"sweep.rungs\[0\]: training.step: unknown key"),
    (
        {"space": {"arm.lrr": {"kind": "uniform", "low": 0, "high": 1}}},
        "arm.lrr: unknown setting 'lrr'",
    ),
]


@pytest.mark.parametrize(("change", "said"), CHECKED)
def test_paths_are_checked_against_the_mission(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        check_sweep(spec(**change), Recorder(), "t.yaml")


def test_the_settings_of_the_file_are_found_with_the_defaults_of_the_code() -> None:
    ranges = {
        "arm.lr": {"kind": "uniform", "low": 0, "high": 1},
        "params.training.steps": {"kind": "choice", "values": [40, 80]},
    }
    swept = spec(arms={"treated": ranges, "plain": {}})
    check_sweep(swept, Recorder(), "t.yaml")
    assert file_settings(swept, Recorder(), "treated", "t") == {
        "arm.lr": 0.1,
        "params.training.lr": 0.002,
        "params.training.steps": 80,
    }
    assert file_settings(swept, Recorder(), "plain", "t") == {"params.training.lr": 0.002}


def test_a_choice_tells_numbers_from_truth() -> None:
    from missions.sweep_spec import Choice

    with pytest.raises(ValueError, match="differ"):
        Choice(kind="choice", values=(1, 1))
    assert not Choice(kind="choice", values=(1, 2)).holds(True)


def test_settings_are_those_of_one_arm_and_change_its_hash_alone() -> None:
    before = spec()
    after = with_settings(before, "plain", {"params.training.lr": 0.01, "arm.lr": 0.5})
    assert after.seen_by("plain").params == {"training": {"lr": 0.01}}
    assert after.arms["plain"].params == {"lr": 0.5}
    assert after.seen_by("treated") is after
    assert after.arm_digest("treated") == before.arm_digest("treated")
    assert after.arm_digest("plain") != before.arm_digest("plain")
    lowered = with_rung(after, {"params.training.steps": 20, "examples.dev": 5})
    assert lowered.seen_by("plain").params == {"training": {"lr": 0.01, "steps": 20}}
    assert lowered.examples.dev == 5


def test_a_mission_without_a_sweep_keeps_its_hashes() -> None:
    plain = {key: value for key, value in document().items() if key != "sweep"}
    parsed = parse_spec(plain, "t")
    text = parsed.model_dump(mode="json")
    assert text["sweep"] is None
    assert parsed.digest() == parse_spec({**plain, "sweep": None}, "t").digest()
    assert parsed.digest() != spec().digest()


def test_overrides_are_checked() -> None:
    wrong = with_settings(spec(), "plain", {"params.corpus": 4})
    with pytest.raises(SpecError, match="cannot have its own 'corpus'"):
        check_overrides(wrong, Recorder(), "t")
    wrong = with_settings(spec(), "plain", {"params.training.lr": -1.0})
    with pytest.raises(SpecError, match=r"arms.plain.override: training.lr"):
        check_overrides(wrong, Recorder(), "t")


def test_runs_with_equal_settings_are_trained_together(tmp_path: Path) -> None:
    changed = with_settings(spec(), "plain", {"params.training.lr": 0.01})
    mission = Recorder()
    runs = tuple(Run(mission="T", arm=arm, seed=0) for arm in changed.arms)
    mission.train(changed, Pack(name="T-s0", runs=runs), None)  # type: ignore[arg-type]
    assert mission.trained == [
        ("T-s0.treated", ("treated", "extra"), {}),
        ("T-s0.plain", ("plain",), {"training": {"lr": 0.01}}),
    ]
    mission.trained.clear()
    mission.train(spec(), Pack(name="T-s0", runs=runs), None)  # type: ignore[arg-type]
    assert mission.trained == [("T-s0", ("treated", "plain", "extra"), {})]


def test_a_stage_that_a_group_shares_is_found_by_that_group_alone(tmp_path: Path) -> None:
    """After a failure the missing runs come alone, and another group is the first of the pack."""
    changed = with_settings(spec(), "plain", {"params.training.lr": 0.01})
    runs = {arm: Run(mission="T", arm=arm, seed=0) for arm in changed.arms}

    def loaded(*arms: str) -> dict[float, float | None]:
        """Learning rate of each group -> what its shared stage was trained with before."""
        ctx = LocalContext(changed, tmp_path, torch.device("cpu"))
        ctx.enter_pack(
            PackCheckpoints(
                tmp_path / "checkpoints",
                pack="T-s0",
                keys={run.name: f"key of {arm}" for arm, run in runs.items()},
                binding={},
                quarantine=tmp_path / "quarantine",
                alarm=lambda name, text: None,
            )
        )
        mission = SharesAStage()
        mission.train(changed, Pack(name="T-s0", runs=tuple(runs[arm] for arm in arms)), ctx)
        return mission.found

    assert loaded("treated", "plain") == {0.002: None, 0.01: None}
    assert loaded("plain") == {0.01: 0.01}
    assert loaded("plain", "extra") == {0.01: 0.01, 0.002: 0.002}


@pytest.mark.parametrize("mission_id", sorted(mission_files()))
@pytest.mark.parametrize("profile", ["smoke", "laptop", "cluster"])
def test_the_sweeps_of_all_missions_are_sound(mission_id: str, profile: str) -> None:
    resolved = resolve(mission_id, profile=profile)
    if profile == "smoke":
        assert resolved.sweep is None
    document = yaml.safe_load(mission_files()[mission_id].read_text())
    if "sweep" in document and profile == "laptop":
        assert resolved.sweep is not None
        assert resolved.sweep.expected_cpu_s > 0
