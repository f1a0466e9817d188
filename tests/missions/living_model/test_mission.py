"""Mission B end to end in one process on a tiny base, twice, and its files' settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bem.testing import write_tiny_base
from missions.errors import SpecError
from missions.living_model.params import ArmParams, LivingModelParams
from missions.local import LocalContext, LocalResult, run_local
from missions.protocol import ReportFigure, ReportTable
from missions.registry import load_mission, mission_file, resolve
from missions.spec import MissionSpec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> MissionSpec:
    base = write_tiny_base(tmp_path_factory.mktemp("base"))
    smoke = resolve("B", profile="smoke")
    return smoke.model_copy(update={"base_model": str(base), "base_floor": {}})


@pytest.fixture(scope="module")
def results(spec: MissionSpec, tmp_path_factory: pytest.TempPathFactory) -> list[LocalResult]:
    mission = load_mission("B")
    return [run_local(mission, spec, tmp_path_factory.mktemp(f"run{i}")) for i in range(2)]


def test_two_runs_give_identical_scores(results: list[LocalResult]) -> None:
    first, second = results
    assert first.scores.digest() == second.scores.digest()
    assert first.prepared == second.prepared
    assert set(first.prepared.leak_report.values()) == {0}


def test_every_arm_scores_the_same_prompts(results: list[LocalResult], spec: MissionSpec) -> None:
    frame = results[0].scores.frame
    prompts = frame[frame["metric"] == "exact_match"]
    ids = {arm: tuple(part["example_id"]) for arm, part in prompts.groupby("arm")}
    assert set(ids) == set(spec.arms)
    assert len(set(ids.values())) == 1
    assert len(ids["frozen"]) == spec.examples.test
    parts = frame[frame["metric"].str.match("exact_match_")]
    assert len(parts) == len(prompts)


def test_arms_share_one_adapter_and_differ_in_what_is_updated(
    results: list[LocalResult],
) -> None:
    by_arm = {run.arm: artifact for run, artifact in results[0].artifacts.items()}
    assert len({artifact.cost.trainable_params for artifact in by_arm.values()}) == 1
    assert len({artifact.cost.forward_flops for artifact in by_arm.values()}) == 1
    weights = {(item.path / "adapter.safetensors").read_bytes() for item in by_arm.values()}
    assert len(weights) == 1
    online = {arm: artifact.figures["online_updated_params"] for arm, artifact in by_arm.items()}
    assert online["frozen"] == online["memory"] == 0
    assert 0 < online["controller_only"] < online["all_params"]


def test_verdict_is_withheld_and_extras_are_made(
    results: list[LocalResult], spec: MissionSpec, tmp_path: Path
) -> None:
    result = results[0]
    assert result.verdict.verdict == "WITHHELD"
    mission = load_mission("B")
    ctx = LocalContext(spec, tmp_path, torch.device("cpu"))
    mission.prepare(spec, ctx)
    extras = mission.report_extras(spec, ctx, result.artifacts, result.scores)
    assert any(isinstance(extra, ReportFigure) for extra in extras)
    tables = [extra for extra in extras if isinstance(extra, ReportTable)]
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)


@pytest.mark.parametrize("profile", ["laptop", "smoke", "cluster"])
def test_profiles_resolve_and_leave_room_for_every_horizon(profile: str) -> None:
    spec = resolve("B", profile=profile)
    params = LivingModelParams.model_validate(spec.params)
    assert {ArmParams.model_validate(arm.params).update for arm in spec.arms.values()} == {
        "none",
        "controller",
        "all",
        "memory",
    }
    assert max(params.stream.injections.values()) + params.fix.censor <= params.stream.poison[0]
    assert (
        params.stream.poison[1] + params.stream.settle <= spec.examples.test + params.canary.every
    )
    longest_answer = params.feedback.max_delay + params.canary.every
    assert params.stream.settle >= longest_answer
    assert profile == "smoke" or spec.examples.test >= 1000


def test_a_misspelt_setting_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"params.*prompts_per_update"):
        resolve("B", overrides=["params.stream.prompts_per_updat=5"])
    with pytest.raises(ValueError, match="do not go together"):
        ArmParams.model_validate({"update": "none", "lr": 0.1})
    assert mission_file("B").parent.name == "living_model"
