"""Builds, keeps and runs the contestants: skill experts with their policy, and the fused adapter.

What the planner, the best fixed plan, the random plan and the oracle share (three experts of one
seed) is trained once here. It knows the mission's files and figures, not its gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save

from bem.base import BaseModel as FrozenBase
from bem.checkpoint import load_adapter, read_manifest, save_adapter, write_durably
from bem.injection import AdapterHost
from bem.planner import MacroPolicy, PlanSpace, RewardTable, clone_behaviour
from bem.training import TrainResult
from missions.agentic_planner.chains import SKILLS, Chain, Marks, budgets, encode_chains
from missions.agentic_planner.params import Params
from missions.agentic_planner.scoring import PlanAnswers, Setting, em_table, run_plans
from missions.agentic_planner.skills import (
    FUSED,
    SKILL_ADAPTERS,
    Log,
    add_adapters,
    train_fused,
    train_skills,
)
from missions.agentic_planner.world import Item
from missions.seeding import torch_generator

_POLICY = "policy.safetensors"
_CHOICE = "choice.json"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Tokenized data and the setting that every run shares."""

    setting: Setting
    train: list[Chain]
    pool: list[Chain]
    """Train chains that adapters learn from: those whose records were found."""


def ground(base: FrozenBase, train: Sequence[Item], params: Params) -> Ground:
    """Tokenizes the train split and fixes token budgets by its longest gold texts."""
    marks = Marks.of(base.tokenizer)
    chains = encode_chains(train, base.tokenizer, marks)
    pool = [c for c in chains if c.item.found or "R" not in c.item.query.plan]
    setting = Setting(
        marks=marks,
        space=PlanSpace(SKILLS, params.policy.horizon),
        budget=budgets(pool),
        rows=params.eval_rows,
    )
    return Ground(setting=setting, train=chains, pool=pool)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Adapters of one seed on a host."""

    host: AdapterHost
    result: TrainResult


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Experts with what was learned from their reward table."""

    host: AdapterHost
    result: TrainResult
    policy: MacroPolicy
    best_fixed: str
    table: RewardTable
    answers: PlanAnswers
    """Of the train queries that were scored."""
    cloned: int
    """Queries whose best plan was cloned: those that some plan solves."""


def build_planner(
    base: FrozenBase,
    field: Ground,
    params: Params,
    seed: int,
    *,
    log: Log,
    should_stop: Callable[[], bool],
) -> Planner:
    """Trains the experts, scores every plan on train queries, clones the best plans."""
    host = AdapterHost(base)
    add_adapters(host, SKILL_ADAPTERS, params.skill, seed)
    result = train_skills(host, field.pool, params.training, seed, log=log, should_stop=should_stop)
    queries = field.train[: params.policy.queries]
    answers = run_plans(host, queries, field.setting)
    table = RewardTable(
        space=field.setting.space,
        score_QP=em_table(answers, queries),
        step_cost=params.policy.step_cost,
    )
    policy = MacroPolicy(
        field.setting.space,
        feature_size=answers.features_QF.shape[1],
        width=params.policy.width,
        generator=torch_generator(seed, "agentic_planner", "init", "policy"),
    ).to(base.device)
    solvable = table.solvable()
    if solvable.any():
        weights_QP = torch.from_numpy(table.plan_weights(params.policy.temperature)[solvable])
        clone_behaviour(
            policy,
            answers.features_QF[torch.from_numpy(solvable).to(base.device)],
            weights_QP,
            steps=params.policy.steps,
            lr=params.policy.lr,
            weight_decay=params.policy.weight_decay,
        )
    return Planner(
        host=host,
        result=result,
        policy=policy,
        best_fixed=table.best_fixed(),
        table=table,
        answers=answers,
        cloned=int(solvable.sum()),
    )


def build_fused(
    base: FrozenBase,
    field: Ground,
    params: Params,
    seed: int,
    *,
    log: Log,
    should_stop: Callable[[], bool],
) -> Trained:
    """Trains the fused adapter on the same chains in the same order."""
    host = AdapterHost(base)
    add_adapters(host, (FUSED,), params.fused, seed)
    result = train_fused(host, field.pool, params.training, seed, log=log, should_stop=should_stop)
    return Trained(host=host, result=result)


def save_adapters(host: AdapterHost, names: Sequence[str], folder: Path, seed: int) -> None:
    """Writes adapters below `folder`, one folder each."""
    for name in names:
        save_adapter(host, name, folder / name, extra={"mission": "A", "seed": seed})


def load_adapters(base: FrozenBase, names: Sequence[str], folder: Path) -> AdapterHost:
    """A host with the adapters that `save_adapters` wrote."""
    host = AdapterHost(base)
    for name in names:
        load_adapter(host, name, folder / name)
    return host


def adapter_digest(folder: Path) -> str:
    """sha256 of the weights in an adapter's folder, as its manifest says."""
    return read_manifest(folder).sha256


def save_policy(policy: MacroPolicy, folder: Path) -> None:
    """Writes the macro-policy with its feature scaling."""
    tensors = {key: t.detach().cpu().contiguous() for key, t in policy.state_dict().items()}
    write_durably(folder / _POLICY, save(tensors))


def load_policy(folder: Path, space: PlanSpace, device: torch.device) -> MacroPolicy:
    """The macro-policy that `save_policy` wrote."""
    tensors = load_file(folder / _POLICY)
    width, feature_size = tensors["trunk_HF"].shape
    policy = MacroPolicy(
        space, feature_size=feature_size, width=width, generator=torch.Generator().manual_seed(0)
    )
    policy.load_state_dict(tensors)
    return policy.to(device)


class Choice(BaseModel):
    """How an arm answers: its rule, its one plan where it has one, its token budgets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    plan: str
    budget: dict[str, int]
    horizon: int


def save_choice(folder: Path, rule: str, plan: str, setting: Setting) -> None:
    """Writes how an arm answers."""
    choice = Choice(
        rule=rule, plan=plan, budget=dict(setting.budget), horizon=setting.space.horizon
    )
    write_durably(folder / _CHOICE, (choice.model_dump_json(indent=1) + "\n").encode())


def load_choice(folder: Path, base: FrozenBase, rows: int) -> tuple[Choice, Setting]:
    """What `save_choice` wrote, and the setting under which the arm was trained."""
    choice = Choice.model_validate_json((folder / _CHOICE).read_bytes())
    setting = Setting(
        marks=Marks.of(base.tokenizer),
        space=PlanSpace(SKILLS, choice.horizon),
        budget=choice.budget,
        rows=rows,
    )
    return choice, setting


def random_plans(space: PlanSpace, count: int, rng: np.random.Generator) -> list[str]:
    """One plan a query, uniformly."""
    return [space.plans[int(i)] for i in rng.integers(len(space.plans), size=count)]
