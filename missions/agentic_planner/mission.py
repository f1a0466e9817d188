"""Mission A: does a planner over three skill experts beat one fused adapter of equal size?

Arms (by their `adapter` word in mission.yaml): `planner` (experts under the cloned macro-policy),
`fused` (one adapter that writes the same chains), `fixed`, `random` and `oracle` (the same experts
under the best single plan of the train queries, a random plan, the best plan in hindsight).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from bem.base import BaseModel as FrozenBase
from missions.agentic_planner import contest, world
from missions.agentic_planner.chains import Chain, encode_chains
from missions.agentic_planner.costs import fused_flops, mean_steps, mean_tokens, planner_flops
from missions.agentic_planner.diagnostics import code_figures
from missions.agentic_planner.params import Params
from missions.agentic_planner.queries import KINDS
from missions.agentic_planner.scoring import (
    Answers,
    FusedContestant,
    PlanAnswers,
    PolicyContestant,
    em_table,
    exact_matches,
    run_contestant,
    run_plans,
    token_f1,
)
from missions.agentic_planner.skills import FUSED, SKILL_ADAPTERS
from missions.data.splits import SPLITS
from missions.errors import SpecError
from missions.protocol import (
    Artifact,
    Context,
    Mission,
    Pack,
    Prepared,
    ReportFigure,
    ReportTable,
    Run,
    Split,
)
from missions.seeding import numpy_generator
from missions.spec import MissionSpec
from stats.scores import ScoreTable
from stats.verdict import ArmCost

RULES = ("planner", "fixed", "random", "oracle")
"""Arms that share the experts of a seed."""
_FLOOR_ITEMS = 100


class AgenticPlanner(Mission):
    """See the module."""

    id: ClassVar[str] = "A"
    params_model: ClassVar[type[BaseModel]] = Params

    def __init__(self) -> None:
        self._scored: dict[tuple[str, ...], PlanAnswers] = {}
        self._able: set[str] = set()

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        params = _params(spec)
        items = world.build(ctx.data_dir, spec.data_seed, spec.examples, params.data)
        summary = {"records": params.data.records}
        for split in SPLITS:
            summary[f"{split}_queries"] = len(items[split])
            summary[f"{split}_found"] = sum(item.found for item in items[split])
        return Prepared(
            data_digest=world.digest(items), leak_report=world.leaks(items), summary=summary
        )

    def train(self, spec: MissionSpec, pack: Pack, ctx: Context) -> Mapping[Run, Artifact]:
        params, base = _params(spec), ctx.base()
        self._check_base(spec, base)
        field = contest.ground(base, world.load(ctx.data_dir, "train"), params)
        marks = field.setting.marks
        dev = encode_chains(world.load(ctx.data_dir, "dev"), base.tokenizer, marks)
        artifacts: dict[Run, Artifact] = {}
        by_rule = {_rule(spec, run): run for run in pack.runs}
        sharing = {rule: run for rule, run in by_rule.items() if rule in RULES}
        if sharing:
            artifacts |= _train_planner(params, pack.seed, base, field, dev, sharing, ctx)
        if FUSED in by_rule:
            run = by_rule[FUSED]
            artifacts[run] = _train_fused(params, run, base, field, dev, ctx)
        return artifacts

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        params, base = _params(spec), ctx.base()
        field = contest.ground(base, world.load(ctx.data_dir, "train"), params)
        chains = encode_chains(world.load(ctx.data_dir, split), base.tokenizer, field.setting.marks)
        rule = _rule(spec, run)
        if rule == FUSED:
            host = contest.load_adapters(base, (FUSED,), artifact.path)
            answers = run_contestant(host, chains, field.setting, FusedContestant(field.setting))
            host.detach()
            return _scores(run, answers, chains)
        scored = self._score_plans(base, artifact, chains, field, split)
        choice = contest.load_choice(artifact.path)
        space = field.setting.space
        if rule == "planner":
            policy = contest.load_policy(artifact.path, space, base.device)
            plans = policy.plan(scored.features_QF)
        elif rule == "fixed":
            plans = [choice["plan"]] * len(chains)
        elif rule == "random":
            rng = numpy_generator(run.seed, "agentic_planner", "random_plan", split)
            plans = contest.random_plans(space, len(chains), rng)
        else:
            best = em_table(scored, chains).argmax(1)
            plans = [space.plans[int(i)] for i in best]
        return _scores(run, scored.of(plans), chains)

    def report_extras(
        self,
        spec: MissionSpec,
        ctx: Context,
        artifacts: Mapping[Run, Artifact],
        scores: ScoreTable,
    ) -> Sequence[ReportTable | ReportFigure]:
        frame = scores.frame
        kind = frame["example_id"].str.split("-").str[1]
        tables = []
        for metric, title, caption in (
            ("em", "Exact match by query type", "Mean over seeds and test queries."),
            ("retrieves", "Share of plans that retrieve", "On TRAP the index is out of date."),
            ("steps", "Plan length", "Steps; at most three by construction."),
        ):
            chosen = frame[frame["metric"] == metric]
            means = chosen.groupby(["arm", kind[chosen.index]])["value"].mean().unstack()
            rows = tuple(
                (arm, *(float(means.loc[arm, name]) for name in KINDS))
                for arm in spec.arms
                if arm in means.index
            )
            tables.append(
                ReportTable(title=title, caption=caption, columns=("arm", *KINDS), rows=rows)
            )
        return [*tables, _plan_table(spec, artifacts)]

    def _check_base(self, spec: MissionSpec, base: FrozenBase) -> None:
        """Refuses a base below the stated floor; measured once a base."""
        floor = {skill: least for skill, least in spec.base_floor.items() if least > 0}
        if not floor or base.digest in self._able:
            return
        from missions.base_model import check_floor

        check_floor(base, spec.base_floor, needed_by=f"mission {spec.id}", num_items=_FLOOR_ITEMS)
        self._able.add(base.digest)

    def _score_plans(
        self,
        base: FrozenBase,
        artifact: Artifact,
        chains: Sequence[Chain],
        field: contest.Ground,
        split: Split,
    ) -> PlanAnswers:
        """Every plan on every query; kept, because four arms of a seed ask for the same."""
        weights = tuple(contest.adapter_digest(artifact.path / name) for name in SKILL_ADAPTERS)
        queries = world.items_digest([chain.item for chain in chains])
        key = (base.digest, split, queries, *weights)
        if key not in self._scored:
            self._scored.clear()
            host = contest.load_adapters(base, SKILL_ADAPTERS, artifact.path)
            self._scored[key] = run_plans(host, chains, field.setting)
            host.detach()
        return self._scored[key]


def _train_planner(
    params: Params,
    seed: int,
    base: FrozenBase,
    field: contest.Ground,
    dev: Sequence[Chain],
    runs: Mapping[str, Run],
    ctx: Context,
) -> dict[Run, Artifact]:
    """Experts once; an artifact for every arm that uses them."""

    def log(step: int, metrics: dict[str, float]) -> None:
        for run in runs.values():
            ctx.log(run, step, metrics)

    planner = contest.build_planner(base, field, params, seed, log=log, should_stop=ctx.should_stop)
    host, table = planner.host, planner.table
    answers = run_contestant(host, dev, field.setting, PolicyContestant(planner.policy))
    skill_params = host.num_trainable(*SKILL_ADAPTERS)
    policy_params = sum(p.numel() for p in planner.policy.parameters())
    shared = {
        "final_loss": planner.result.losses[-1],
        "train_cpu_s": planner.result.cpu_s,
        "cloned_queries": float(planner.cloned),
        **{
            f"train_em_{plan}": float(em)
            for plan, em in zip(table.space.plans, table.score_QP.mean(0), strict=True)
        },
        **code_figures(host, SKILL_ADAPTERS, dev, seed),
    }
    rng = numpy_generator(seed, "agentic_planner", "random_plan", "cost")
    plans = {
        "fixed": [planner.best_fixed] * len(table.score_QP),
        "random": contest.random_plans(table.space, len(table.score_QP), rng),
        "oracle": table.best(),
    }
    artifacts = {}
    for rule, run in runs.items():
        folder = ctx.artifact_dir(run)
        contest.save_adapters(host, SKILL_ADAPTERS, folder, seed)
        figures = dict(shared)
        trainable = skill_params
        if rule == "planner":
            contest.save_policy(planner.policy, folder)
            contest.save_choice(folder, {"rule": rule})
            trainable += policy_params
            flops = planner_flops(host, answers, planner.policy)
            figures |= _dev_figures(answers, dev)
            figures["policy_params"] = float(policy_params)
        else:
            plan = planner.best_fixed if rule == "fixed" else ""
            contest.save_choice(folder, {"rule": rule, "plan": plan})
            flops = planner_flops(host, planner.answers.of(plans[rule]), None)
        cost = ArmCost(
            arm=run.arm,
            trainable_params=trainable,
            adapter_params=skill_params,
            forward_flops=flops,
        )
        artifacts[run] = Artifact(path=folder, cost=cost, figures=figures)
    host.detach()
    return artifacts


def _train_fused(
    params: Params,
    run: Run,
    base: FrozenBase,
    field: contest.Ground,
    dev: Sequence[Chain],
    ctx: Context,
) -> Artifact:
    trained = contest.build_fused(
        base,
        field,
        params,
        run.seed,
        log=lambda step, metrics: ctx.log(run, step, metrics),
        should_stop=ctx.should_stop,
    )
    host = trained.host
    answers = run_contestant(host, dev, field.setting, FusedContestant(field.setting))
    folder = ctx.artifact_dir(run)
    contest.save_adapters(host, (FUSED,), folder, run.seed)
    contest.save_choice(folder, {"rule": FUSED})
    size = host.num_trainable(FUSED)
    cost = ArmCost(
        arm=run.arm,
        trainable_params=size,
        adapter_params=size,
        forward_flops=fused_flops(host, answers),
    )
    figures = {
        "final_loss": trained.result.losses[-1],
        "train_cpu_s": trained.result.cpu_s,
        **_dev_figures(answers, dev),
        **code_figures(host, (FUSED,), dev, run.seed),
    }
    host.detach()
    return Artifact(path=folder, cost=cost, figures=figures)


def _dev_figures(answers: Answers, dev: Sequence[Chain]) -> dict[str, float]:
    gold = [chain.item.query.plan for chain in dev]
    return {
        "dev_em": float(exact_matches(answers, dev).mean()),
        "dev_gold_plan": float(np.mean([a == b for a, b in zip(answers.plans, gold, strict=True)])),
        "dev_steps": mean_steps(answers),
        **mean_tokens(answers),
    }


def _scores(run: Run, answers: Answers, chains: Sequence[Chain]) -> ScoreTable:
    """Rows of one run: em, f1, steps and retrieves of every query, em_<type> of its type's."""
    rows: list[tuple[str, str, float]] = []
    em_Q = exact_matches(answers, chains)
    for chain, plan, text, em in zip(chains, answers.plans, answers.texts, em_Q, strict=True):
        query = chain.item.query
        rows += [
            (query.id, "em", float(em)),
            (query.id, f"em_{query.kind}", float(em)),
            (query.id, "f1", token_f1(text, query.answer)),
            (query.id, "steps", float(len(plan))),
            (query.id, "retrieves", float("R" in plan)),
        ]
    ids, metrics, values = zip(*rows, strict=True)
    return ScoreTable.from_columns(
        arm=run.arm, seed=run.seed, example_id=ids, metric=metrics, value=values
    )


def _plan_table(spec: MissionSpec, artifacts: Mapping[Run, Artifact]) -> ReportTable:
    """Exact match of each plan on the train queries that the policy learned from."""
    figures = [a.figures for run, a in artifacts.items() if _rule(spec, run) == "planner"]
    prefix = "train_em_"
    plans = [name.removeprefix(prefix) for name in figures[0] if name.startswith(prefix)]
    rows = tuple((plan, *(float(each[prefix + plan]) for each in figures)) for plan in plans)
    return ReportTable(
        title="Reward table: exact match of every plan, by seed",
        caption="Train queries, frozen experts; R retrieve-use, E reason, F format.",
        columns=("plan", *(f"run {i}" for i in range(len(figures)))),
        rows=rows,
    )


def _params(spec: MissionSpec) -> Params:
    return Params.model_validate(spec.params)


def _rule(spec: MissionSpec, run: Run) -> str:
    """How an arm answers: its `adapter` word."""
    word = spec.arms[run.arm].adapter
    if word not in (*RULES, FUSED):
        known = ", ".join((*RULES, FUSED))
        raise SpecError(f"mission {spec.id}: arms.{run.arm}.adapter: {word!r}. Known: {known}.")
    return word


MISSION = AgenticPlanner()
