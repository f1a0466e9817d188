from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bem.base import BaseModel, load_base
from bem.injection import AdapterHost
from bem.planner import RewardTable
from bem.testing import write_tiny_base
from bem.training import TrainResult
from missions.agentic_planner import contest, world
from missions.agentic_planner.costs import chain_training_flops, fused_flops, table_flops
from missions.agentic_planner.executed import Executed, executed
from missions.agentic_planner.mission import MISSION
from missions.agentic_planner.params import FusedTrainingParams, Params
from missions.agentic_planner.scoring import (
    GivenPlans,
    em_table,
    gold_answers,
    run_contestant,
    run_plans,
)
from missions.agentic_planner.skills import FUSED, SKILL_ADAPTERS, add_adapters
from missions.local import run_local
from missions.registry import mission_file
from missions.spec import MissionSpec, load_spec

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def base(base_folder: Path) -> BaseModel:
    return load_base(base_folder)


@pytest.fixture(scope="module")
def spec(base_folder: Path) -> MissionSpec:
    smoke = load_spec(mission_file("A"), profile="smoke")
    return smoke.model_copy(update={"base_model": str(base_folder), "base_floor": {}})


@pytest.fixture(scope="module")
def params(spec: MissionSpec) -> Params:
    return Params.model_validate(spec.params)


@pytest.fixture(scope="module")
def field(
    base: BaseModel, spec: MissionSpec, params: Params, tmp_path_factory: pytest.TempPathFactory
) -> contest.Ground:
    items = world.build(
        tmp_path_factory.mktemp("field"), spec.data_seed, spec.examples, params.data
    )
    return contest.ground(base, items["train"], params)


def _table(field: contest.Ground, score_QP: np.ndarray) -> RewardTable:
    return RewardTable(space=field.setting.space, score_QP=score_QP, step_cost=0.05)


def _known(base: BaseModel, field: contest.Ground, params: Params) -> tuple[Executed, list[str]]:
    """Ten queries; the first is solved by RF alone, the second by none, the others by F or RF."""
    host = AdapterHost(base)
    add_adapters(host, SKILL_ADAPTERS, params.skill, 0)
    answers = run_plans(host, field.train[:10], field.setting)
    host.detach()
    plans = list(field.setting.space.plans)
    score_QP = np.zeros((10, len(plans)))
    score_QP[:, plans.index("RF")] = 1
    score_QP[2:, plans.index("F")] = 1
    score_QP[1] = 0
    known = executed(
        field.train[:10],
        answers,
        _table(field, score_QP),
        0.05,
        base.tokenizer,
        field.setting.marks,
    )
    return known, answers.by_plan["R"].texts


def test_executed_chains_hold_what_was_written(
    base: BaseModel, field: contest.Ground, params: Params
) -> None:
    known, written = _known(base, field, params)
    assert [c.item.query.id for c in known.chains] == [
        c.item.query.id for i, c in enumerate(field.train[:10]) if i != 1
    ]
    plans, marks = list(field.setting.space.plans), field.setting.marks
    rows = [i for i in range(10) if i != 1]
    for chain, row, i in zip(known.chains, known.by_plan, rows, strict=True):
        for plan, learned in zip(plans, row, strict=True):
            assert [c.skill for c in learned.chunks] == list(plan)
            assert (learned is chain) == (plan == chain.item.query.plan)
            assert all(c.given[0] == marks.marker[c.skill] for c in learned.chunks)
            assert all(c.written[-1] == marks.separator for c in learned.chunks)
        learned = row[plans.index("RF")]
        if learned is not chain:
            text = base.tokenizer.decode(list(learned.chunks[0].written[:-1]))
            assert text == written[i]
            told = learned.chunks[0].written[:-1]
            assert learned.chunks[1].given == chain.parts.given("F", marks, told)


def test_plans_are_drawn_by_their_reward(
    base: BaseModel, field: contest.Ground, params: Params
) -> None:
    known, _ = _known(base, field, params)
    rng = np.random.default_rng(0)
    count, short, first = 400, 0, set()
    for _ in range(count):
        drawn = known.draw(rng)
        first.add("".join(c.skill for c in drawn[0].chunks))
        short += sum(len(chain.chunks) == 1 for chain in drawn[1:])
    assert first == {"RF"}  # all others of the first query are wrong: e^-18 and less
    share = short / (8 * count)
    expected = 1 / (1 + np.exp(-1))  # one step cheaper, a twentieth over a temperature of as much
    assert share == pytest.approx(expected, abs=4 * np.sqrt(0.25 / (8 * count)))
    pool = known.among(field.train, rng)
    assert [c.item.query.id for c in pool] == [c.item.query.id for c in field.train]
    assert all(a is b for a, b in zip(pool[10:], field.train[10:], strict=True))


def test_the_fused_table_equals_serving_it_each_plan(
    base: BaseModel, field: contest.Ground, params: Params
) -> None:
    host = AdapterHost(base)
    add_adapters(host, (FUSED,), params.fused, 0)
    with torch.no_grad():  # an adapter that acts
        for parameter in host.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    chains = field.train[:12]
    table = run_plans(host, chains, field.setting, fused=True)
    for plan in ("F", "RF", "REF"):
        who = GivenPlans([plan] * len(chains))
        served = run_contestant(host, chains, field.setting, who)
        assert served.texts == table.by_plan[plan].texts
        np.testing.assert_array_equal(served.tokens_QS, table.by_plan[plan].tokens_QS)
    assert em_table(table, chains).shape == (12, 7)
    flops = table_flops(host, table, fused=True)
    alone = {p: fused_flops(host, table.by_plan[p]) * len(chains) for p in table.space.plans}
    assert alone["REF"] + alone["EF"] + alone["F"] < flops < sum(alone.values())
    host.detach()


def test_a_trained_token_costs_two_passes_of_the_base_and_three_of_the_adapter(
    base: BaseModel, field: contest.Ground, params: Params
) -> None:
    host = AdapterHost(base)
    add_adapters(host, (FUSED,), params.fused, 0)
    chains = field.pool[:10]
    passes = fused_flops(host, gold_answers(chains))
    frozen = np.mean([base.forward_flops(batch=1, seq_len=c.length) for c in chains])
    found = chain_training_flops(host, chains, fused=True)
    host.detach()
    assert found == pytest.approx(2 * frozen + 3 * (passes - frozen))
    assert 2 * passes < found < 3 * passes


@pytest.mark.parametrize(
    "training",
    [
        {"outcomes": "experts"},
        {"outcomes": "own", "outcome_queries": 20, "outcome_steps": 2},
    ],
)
def test_a_fused_adapter_may_learn_from_outcomes(
    training: dict[str, object], spec: MissionSpec, tmp_path: Path
) -> None:
    arms = {name: spec.arms[name] for name in ("planner", "fused_bem")}
    fused = {**spec.params["fused_training"], **training}
    gates = tuple(gate for gate in spec.gates if gate.primary)
    told = spec.model_copy(
        update={
            "arms": arms,
            "gates": gates,
            "params": {**spec.params, "fused_training": fused},
        }
    )
    result = run_local(MISSION, told, tmp_path)
    assert result.verdict.verdict == "WITHHELD"
    assert set(result.scores.frame["arm"]) == set(arms)
    flops = {run.arm: a.figures["train_flops"] for run, a in result.artifacts.items()}
    assert all(value > 0 for value in flops.values())


@pytest.mark.parametrize(
    "training",
    [
        {"outcomes": "own"},
        {"outcomes": "none", "outcome_steps": 3},
        {"outcomes": "experts", "outcome_queries": 3},
    ],
)
def test_outcome_settings_that_contradict_each_other_are_refused(
    training: dict[str, object],
) -> None:
    with pytest.raises(ValidationError, match="outcome_queries"):
        FusedTrainingParams.model_validate({"steps": 1, "batch": 1, "lr": 0.1, **training})


@pytest.mark.parametrize("labels", ["outcomes", "gold", "both"])
def test_the_policy_clones_what_its_labels_say(
    labels: str,
    base: BaseModel,
    field: contest.Ground,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    def clone(policy: object, features: torch.Tensor, weights: torch.Tensor, **_: object) -> None:
        told.append((features, weights))

    monkeypatch.setattr(contest, "clone_behaviour", clone)
    host = AdapterHost(base)
    add_adapters(host, SKILL_ADAPTERS, params.skill, 0)
    result = TrainResult(steps=0, stopped=False, losses=(0.0,), cpu_s=0.0)
    experts = contest.Trained(host=host, result=result, train_flops=0.0, cpu_s=0.0)
    scored = contest.score_plans(host, field, params.policy, 10)
    plans = field.setting.space.plans
    score_QP = np.zeros((10, len(plans)))
    score_QP[:7, plans.index("EF")] = 1  # the last three are solved by no plan
    scored = dataclasses.replace(scored, table=_table(field, score_QP))
    policy = params.policy.model_copy(update={"labels": labels})
    planner = contest.with_policy(experts, scored, field, policy, 0)
    host.detach()

    ((features, weights),) = told
    first = {c.item.query.id for c in field.train[:10]}
    rest = [c for c in field.pool if labels == "gold" or c.item.query.id not in first]
    gold = [plans[int(i)] for i in weights.argmax(1)[0 if labels == "gold" else 7 :]]
    assert len(features) == len(weights) == planner.cloned
    if labels == "outcomes":
        assert len(weights) == 7
    else:
        assert gold == [c.item.query.plan for c in rest]
        assert weights[-1].max() == 1
    if labels != "gold":
        assert weights[:7].argmax(1).tolist() == [plans.index("EF")] * 7
