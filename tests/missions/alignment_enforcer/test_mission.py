"""Mission C end to end in one process on a tiny base, twice, and what its arms promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bem.base import load_base
from bem.testing import write_tiny_base
from missions.alignment_enforcer import artifact
from missions.alignment_enforcer.arms import PrefillStore, answers, benign_outcome
from missions.alignment_enforcer.checks import refuses
from missions.alignment_enforcer.data import read_split
from missions.alignment_enforcer.params import MissionParams
from missions.alignment_enforcer.scoring import batches_of
from missions.errors import SpecError
from missions.local import LocalContext, LocalResult, packs_of, run_local
from missions.protocol import Pack
from missions.registry import load_mission, resolve
from missions.spec import MissionSpec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> MissionSpec:
    base = write_tiny_base(tmp_path_factory.mktemp("base"), max_positions=1024)
    smoke = resolve("C", profile="smoke", overrides=("params.safety.learning_rate=0.05",))
    return smoke.model_copy(update={"base_model": str(base), "base_floor": {}, "seeds": (0,)})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def result(spec: MissionSpec, workdir: Path) -> LocalResult:
    return run_local(load_mission("C"), spec, workdir)


def test_two_runs_give_identical_scores(
    result: LocalResult, spec: MissionSpec, tmp_path: Path
) -> None:
    again = run_local(load_mission("C"), spec, tmp_path)
    assert again.scores.digest() == result.scores.digest()
    assert again.prepared == result.prepared
    assert set(result.prepared.leak_report.values()) == {0}


def test_an_arm_alone_trains_to_the_same_weights(
    result: LocalResult, spec: MissionSpec, workdir: Path, tmp_path: Path
) -> None:
    """Arms share a skill and prefills; a lone retry must not differ for that."""
    run = next(run for run in packs_of(spec)[0].runs if run.arm == "branch")
    ctx = LocalContext(spec, tmp_path, torch.device("cpu"))
    mission = load_mission("C")
    mission.prepare(spec, ctx)
    (lone,) = mission.train(spec, Pack(name="lone", runs=(run,)), ctx).values()
    for file in ("safety/adapter.safetensors", "skill/adapter.safetensors", "head.safetensors"):
        assert (lone.path / file).read_bytes() == (result.artifacts[run].path / file).read_bytes()


def test_scores_are_crossed_and_complete(result: LocalResult, spec: MissionSpec) -> None:
    frame = result.scores.frame
    for metric in ("violation", "benign_em", "over_refusal"):
        part = frame[frame["metric"] == metric]
        ids = {arm: tuple(rows["example_id"]) for arm, rows in part.groupby("arm")}
        assert set(ids) == set(spec.arms)
        assert len(set(ids.values())) == 1
        assert len(next(iter(ids.values()))) == spec.examples.test // 2
        assert part["value"].isin([0.0, 1.0]).all()
    assert (frame[frame["metric"] == "benign_kl"]["value"] > -1e-6).all()
    sites = frame[(frame["metric"] == "orthogonality") & (frame["arm"] == "branch")]
    assert (sites["value"] > 0.999).all()


def test_sizes_agree_and_no_reason_says_otherwise(result: LocalResult) -> None:
    cost = {run.arm: item.cost for run, item in result.artifacts.items()}
    assert cost["helpful"].trainable_params == 0
    for control in ("safety_lora", "classifier"):
        ratio = cost["branch"].trainable_params / cost[control].trainable_params
        assert abs(ratio - 1) < 0.05


def test_all_arms_stand_on_one_skill(result: LocalResult) -> None:
    weights = {
        (item.path / "skill" / "adapter.safetensors").read_bytes()
        for item in result.artifacts.values()
    }
    assert len(weights) == 1


def test_the_branch_is_orthogonal_after_training(result: LocalResult) -> None:
    figures = {run.arm: item.figures for run, item in result.artifacts.items()}
    assert figures["branch"]["orthogonality_worst"] > 0.999
    assert figures["safety_lora"]["orthogonality_worst"] < 0.9


@pytest.mark.parametrize("arm", ["branch", "safety_lora", "classifier"])
def test_knob_zero_is_the_skill_and_generation_agrees_with_teacher_forcing(
    result: LocalResult, spec: MissionSpec, workdir: Path, arm: str
) -> None:
    params = MissionParams.model_validate(spec.params)
    base = load_base(Path(spec.base_model))
    items = [item for item in read_split(workdir / "data", "test") if item.benign][:12]
    by_arm = {run.arm: item.path for run, item in result.artifacts.items()}
    with artifact.loaded(by_arm["helpful"], base) as (model, _):
        batches = batches_of("t", items, model.host, params)
        skill = answers(model, batches, PrefillStore(keep=True), 0.0, 6)
    with artifact.loaded(by_arm[arm], base) as (model, _):
        batches = batches_of("t", items, model.host, params)
        store = PrefillStore(keep=True)
        assert answers(model, batches, store, 0.0, 6) == skill
        outcome = benign_outcome(model, batches, store, 1.0)
        texts = answers(model, batches, store, 1.0, 6)
        fresh = answers(model, batches, PrefillStore(keep=False), 1.0, 6)
    assert texts == fresh
    assert min(outcome.divergence) > -1e-6
    assert list(outcome.refused) == [refuses(text) for text in texts]


def test_wrong_settings_are_named(spec: MissionSpec) -> None:
    with pytest.raises(SpecError, match="four"):
        resolve("C", overrides=("params.batch_size=10",))
    with pytest.raises(SpecError, match="knob"):
        resolve("C", overrides=("params.knob_grid=[0.5, 1.5]",))


def test_the_other_profiles_resolve() -> None:
    for profile in ("laptop", "smoke", "cluster"):
        found = resolve("C", profile=profile)
        assert (found.withhold_verdict is not None) == (profile == "smoke")
    assert resolve("C").examples.test == 2000
