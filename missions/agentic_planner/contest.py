"""Builds, keeps and runs the contestants: skill experts with their policy, and the fused adapter.

What the planner, the best fixed plan, the random plan and the oracle share (three experts of one
seed) is trained once here. It knows the mission's files and figures, not its gates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save
from torch import Tensor

from bem.base import BaseModel as FrozenBase
from bem.checkpoint import load_adapter, read_manifest, save_adapter, write_durably
from bem.distributed import Share
from bem.injection import AdapterHost
from bem.planner import MacroPolicy, PlanSpace, RewardTable, clone_behaviour
from bem.training import TrainResult
from bem.training_checkpoint import StageCheckpoints
from missions.agentic_planner.chains import SKILLS, Chain, Marks, budgets, encode_chains
from missions.agentic_planner.costs import (
    chain_training_flops,
    policy_training_flops,
    reading_flops,
    table_flops,
)
from missions.agentic_planner.executed import Executed, executed
from missions.agentic_planner.params import Params, PolicyParams
from missions.agentic_planner.scoring import (
    FloatArray,
    PlanAnswers,
    Setting,
    em_table,
    prompt_features,
    run_plans,
)
from missions.agentic_planner.skills import (
    FUSED,
    SKILL_ADAPTERS,
    BatchStream,
    Log,
    add_adapters,
    train_fused,
    train_skills,
)
from missions.agentic_planner.world import Item
from missions.seeding import numpy_generator, torch_generator

Checkpoints = Callable[[str], StageCheckpoints | None]
"""Where a training of this name is kept."""
POLICY = "policy.safetensors"
CHOICE = "choice.json"


def no_checkpoints(stage: str) -> None:
    """Keeps no training."""


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
    """Of the last phase of training."""
    train_flops: float
    """Of all that was trained and run to train it (see costs)."""
    cpu_s: float
    """CPU seconds of the same."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Every plan of trained adapters on train queries."""

    queries: Sequence[Chain]
    answers: PlanAnswers
    table: RewardTable
    flops: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Experts with what was learned from their reward table."""

    host: AdapterHost
    result: TrainResult
    policy: MacroPolicy
    best_fixed: str
    scored: Scored
    cloned: int
    """Queries whose plans were cloned."""
    train_flops: float
    cpu_s: float


def build_planner(
    base: FrozenBase,
    field: Ground,
    params: Params,
    seed: int,
    *,
    log: Log,
    should_stop: Callable[[], bool],
    checkpoints: Checkpoints = no_checkpoints,
    share: Share | None = None,
) -> Planner:
    """Trains the experts, scores every plan on train queries, clones the best plans."""
    experts = build_experts(
        base,
        field,
        params,
        seed,
        log=log,
        should_stop=should_stop,
        checkpoints=checkpoints,
        share=share,
    )
    scored = score_plans(experts.host, field, params.policy, params.policy.queries)
    return with_policy(experts, scored, field, params.policy, seed)


def build_experts(
    base: FrozenBase,
    field: Ground,
    params: Params,
    seed: int,
    *,
    log: Log,
    should_stop: Callable[[], bool],
    checkpoints: Checkpoints = no_checkpoints,
    share: Share | None = None,
) -> Trained:
    """Trains the three experts on gold chains."""
    host = AdapterHost(base)
    add_adapters(host, SKILL_ADAPTERS, params.skill, seed)
    batches = BatchStream(lambda: field.pool, params.training.batch, _order(seed))
    result = train_skills(
        host,
        batches,
        params.training,
        log=log,
        should_stop=should_stop,
        checkpoints=checkpoints("experts"),
        share=share,
    )
    items = params.training.steps * params.training.batch
    flops = items * chain_training_flops(host, field.pool, fused=False)
    return Trained(host=host, result=result, train_flops=flops, cpu_s=result.cpu_s)


def score_plans(
    host: AdapterHost, field: Ground, policy: PolicyParams, count: int, *, fused: bool = False
) -> Scored:
    """Runs every plan on the first `count` train queries."""
    started, queries = time.process_time(), field.train[:count]
    answers = run_plans(host, queries, field.setting, fused=fused)
    table = RewardTable(
        space=field.setting.space, score_QP=em_table(answers, queries), step_cost=policy.step_cost
    )
    flops = table_flops(host, answers, fused=fused)
    return Scored(
        queries=queries,
        answers=answers,
        table=table,
        flops=flops,
        cpu_s=time.process_time() - started,
    )


def with_policy(
    experts: Trained, scored: Scored, field: Ground, params: PolicyParams, seed: int
) -> Planner:
    """The experts under a policy that clones what it is told of plans."""
    started = time.process_time()
    space = field.setting.space
    told = _labels(experts.host, scored, field, params)
    policy = MacroPolicy(
        space,
        feature_size=scored.answers.features_QF.shape[1],
        width=params.width,
        generator=torch_generator(seed, "agentic_planner", "init", "policy"),
    ).to(told.features_QF.device)
    if len(told.weight_QP):
        clone_behaviour(
            policy,
            told.features_QF,
            torch.from_numpy(told.weight_QP),
            steps=params.steps,
            lr=params.lr,
            weight_decay=params.weight_decay,
        )
    cloning_flops = policy_training_flops(policy, told.weight_QP, params.steps)
    return Planner(
        host=experts.host,
        result=experts.result,
        policy=policy,
        best_fixed=scored.table.best_fixed(),
        scored=scored,
        cloned=len(told.weight_QP),
        train_flops=experts.train_flops + scored.flops + told.flops + cloning_flops,
        cpu_s=experts.cpu_s + scored.cpu_s + time.process_time() - started,
    )


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """What a policy clones."""

    features_QF: Tensor
    weight_QP: FloatArray
    flops: float
    """Of prompts that were read for this alone."""


def _labels(host: AdapterHost, scored: Scored, field: Ground, params: PolicyParams) -> _Labels:
    """Outcomes of scored queries that some plan solves, gold plans of train chains, or both."""
    plans = field.setting.space.plans
    features_QF = scored.answers.features_QF
    solvable = scored.table.solvable()
    weight_QP = scored.table.plan_weights(params.temperature)[solvable]
    features_QF = features_QF[torch.from_numpy(solvable).to(features_QF.device)]
    if params.labels == "outcomes":
        return _Labels(features_QF=features_QF, weight_QP=weight_QP, flops=0.0)
    known = {chain.item.query.id for chain in scored.queries} if params.labels == "both" else set()
    queries = ((chain, chain.item.query) for chain in field.pool)
    rest = [chain for chain, q in queries if q.id not in known and q.plan in plans]
    rest_QF = prompt_features(host, rest, field.setting)
    gold_QP = np.eye(len(plans))[[plans.index(chain.item.query.plan) for chain in rest]]
    if params.labels == "both":
        rest_QF = torch.cat([features_QF, rest_QF])
        gold_QP = np.concatenate([weight_QP, gold_QP])
    return _Labels(features_QF=rest_QF, weight_QP=gold_QP, flops=reading_flops(host.base, rest))


def build_fused(
    base: FrozenBase,
    field: Ground,
    params: Params,
    seed: int,
    *,
    scored: Scored | None,
    log: Log,
    should_stop: Callable[[], bool],
    checkpoints: Checkpoints = no_checkpoints,
    share: Share | None = None,
) -> Trained:
    """Trains the fused adapter; `scored`: the experts' table, which `outcomes: experts` needs."""
    started = time.process_time()
    training, tokenizer = params.fused_training, base.tokenizer
    host = AdapterHost(base)
    add_adapters(host, (FUSED,), params.fused, seed)

    flops = 0.0

    def known(table: Scored) -> Executed:
        temperature, marks = params.policy.temperature, field.setting.marks
        return executed(table.queries, table.answers, table.table, temperature, tokenizer, marks)

    def fit(
        stage: str,
        draw: Callable[[], Sequence[Chain]],
        steps: int,
        order: np.random.Generator,
        *also: np.random.Generator,
    ) -> TrainResult:
        nonlocal flops
        result = train_fused(
            host,
            BatchStream(draw, training.batch, order, *also),
            training,
            steps=steps,
            log=log,
            should_stop=should_stop,
            checkpoints=checkpoints(stage),
            share=share,
        )
        flops += steps * training.batch * chain_training_flops(host, draw(), fused=True)
        return result

    rng = numpy_generator(seed, "agentic_planner", "outcomes")
    if training.outcomes == "experts":
        assert scored is not None, "the experts come first"
        outcomes = known(scored)
        steps, order = training.steps, _order(seed)
        result = fit("fused", lambda: outcomes.among(field.pool, rng), steps, order, rng)
    else:
        result = fit("fused", lambda: field.pool, training.steps, _order(seed))
    if training.outcomes == "own" and not result.stopped:
        own = score_plans(host, field, params.policy, training.outcome_queries, fused=True)
        flops += own.flops
        solved = known(own)
        if solved.chains:
            result = fit("fused_own", lambda: solved.draw(rng), training.outcome_steps, rng)
    cpu_s = time.process_time() - started
    return Trained(host=host, result=result, train_flops=flops, cpu_s=cpu_s)


def _order(seed: int) -> np.random.Generator:
    """The order of gold chains: the same for both sides."""
    return numpy_generator(seed, "agentic_planner", "order")


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
    write_durably(folder / POLICY, save(tensors))


def load_policy(folder: Path, space: PlanSpace, device: torch.device) -> MacroPolicy:
    """The macro-policy that `save_policy` wrote."""
    tensors = load_file(folder / POLICY)
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
    write_durably(folder / CHOICE, (choice.model_dump_json(indent=1) + "\n").encode())


def load_choice(folder: Path, base: FrozenBase, rows: int) -> tuple[Choice, Setting]:
    """What `save_choice` wrote, and the setting under which the arm was trained."""
    choice = Choice.model_validate_json((folder / CHOICE).read_bytes())
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
