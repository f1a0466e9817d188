"""Mission A: does a planner over three skill experts beat one fused adapter of equal size?

Arms (by their `adapter` word in mission.yaml): `planner` (experts under the cloned macro-policy),
`fused` (one adapter that writes the same chains and picks its next marker itself), `shared` (that
adapter under the planner's policy), `fixed`, `random` and `oracle` (the experts under the best
single plan of the train queries, a random plan, the best plan in hindsight).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from bem.base import BaseModel as FrozenBase
from bem.injection import AdapterHost
from bem.planner import MacroPolicy
from missions.agentic_planner import contest, world
from missions.agentic_planner.chains import Chain, encode_chains
from missions.agentic_planner.keeping import keep_fused, keep_planner
from missions.agentic_planner.outcome import report_tables, scores_of
from missions.agentic_planner.params import Params
from missions.agentic_planner.scoring import (
    Answers,
    FusedContestant,
    PlanAnswers,
    Setting,
    em_table,
    prompt_features,
    run_contestant,
    run_plans,
    with_plans,
)
from missions.agentic_planner.served import write_served
from missions.agentic_planner.skills import FUSED, SKILL_ADAPTERS, Log
from missions.data.splits import SPLITS
from missions.errors import NotServableError, SpecError
from missions.export import ExportedModel
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

EXPERT_RULES = ("planner", "fixed", "random", "oracle")
"""Arms that share the experts of a seed."""
FUSED_RULES = ("fused", "shared")
"""Arms that share the fused adapter of a seed."""
_FLOOR_ITEMS = 100


class AgenticPlanner(Mission):
    """See the module."""

    id: ClassVar[str] = "A"
    params_model: ClassVar[type[BaseModel]] = Params
    strategies: ClassVar[tuple[str, ...]] = ("packed", "ddp", "fsdp")
    seed_figure: ClassVar[str] = "dev_em"
    tunable = ("training", "fused_training", "policy")

    def __init__(self) -> None:
        self._plans: dict[tuple[str, ...], PlanAnswers] = {}
        self._fused: dict[tuple[str, ...], Answers] = {}
        self._encoded: dict[tuple[str, str], list[Chain]] = {}
        self._able: set[str] = set()

    def prepare(self, spec: MissionSpec, ctx: Context) -> Prepared:
        params = _params(spec)
        items = world.build(ctx.data_dir, spec.data_seed, spec.examples, params.data)
        summary = {"entities": params.data.entities}
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
        by_rule = {_rule(spec, run): run for run in pack.runs}
        artifacts: dict[Run, Artifact] = {}
        policy: MacroPolicy | None = None
        scored: contest.Scored | None = None
        if set(by_rule) - {"fused"} or params.fused_training.outcomes == "experts":
            runs = {rule: run for rule, run in by_rule.items() if rule in EXPERT_RULES}
            planner = contest.build_planner(
                base,
                field,
                params,
                pack.seed,
                log=_logger(ctx, runs.values()),
                should_stop=ctx.should_stop,
                checkpoints=ctx.checkpoints,
                share=ctx.share,
            )
            if runs:
                artifacts |= keep_planner(planner, field, dev, runs, pack.seed, ctx)
            policy, scored = planner.policy, planner.scored
            planner.host.detach()
        runs = {rule: run for rule, run in by_rule.items() if rule in FUSED_RULES}
        if runs:
            fused = contest.build_fused(
                base,
                field,
                params,
                pack.seed,
                scored=scored,
                log=_logger(ctx, runs.values()),
                should_stop=ctx.should_stop,
                checkpoints=ctx.checkpoints,
                share=ctx.share,
            )
            artifacts |= keep_fused(fused, policy, field, dev, runs, pack.seed, ctx)
            fused.host.detach()
        return artifacts

    def evaluate(
        self, spec: MissionSpec, run: Run, artifact: Artifact, split: Split, ctx: Context
    ) -> ScoreTable:
        base, rule = ctx.base(), _rule(spec, run)
        choice, setting = contest.load_choice(artifact.path, base, _params(spec).eval_rows)
        chains = self._chains(ctx, split, setting)
        if rule in FUSED_RULES:
            host = contest.load_adapters(base, (FUSED,), artifact.path)
            answers = self._fused_answers(host, artifact, chains, setting)
            if rule == "shared":
                policy = contest.load_policy(artifact.path, setting.space, base.device)
                plans = policy.plan(prompt_features(host, chains, setting))
                answers = with_plans(host, chains, setting, answers, plans)
            host.detach()
            return scores_of(run, answers, chains)
        scored = self._plan_answers(base, artifact, chains, setting)
        if rule == "planner":
            policy = contest.load_policy(artifact.path, setting.space, base.device)
            plans = policy.plan(scored.features_QF)
        elif rule == "fixed":
            plans = [choice.plan] * len(chains)
        elif rule == "random":
            rng = numpy_generator(run.seed, "agentic_planner", "random_plan", split)
            plans = contest.random_plans(setting.space, len(chains), rng)
        else:
            plans = [setting.space.plans[int(i)] for i in em_table(scored, chains).argmax(1)]
        return scores_of(run, scored.of(plans), chains)

    def export(
        self, spec: MissionSpec, run: Run, artifact: Artifact, folder: Path, ctx: Context
    ) -> ExportedModel:
        rule = _rule(spec, run)
        if rule in ("random", "oracle"):
            raise NotServableError(
                f"Mission {spec.id}, arm '{run.arm}': a {rule} plan is a yardstick, no model."
            )
        adapters = (FUSED,) if rule in FUSED_RULES else SKILL_ADAPTERS
        write_served(spec, artifact.path, folder, ctx, rule=rule, adapters=adapters)
        return ExportedModel(
            kind="planner",
            base_model=spec.base_model,
            base_digest=ctx.base().digest,
            serving={"rule": rule, "adapters": list(adapters)},
        )

    def report_extras(
        self,
        spec: MissionSpec,
        ctx: Context,
        artifacts: Mapping[Run, Artifact],
        scores: ScoreTable,
    ) -> Sequence[ReportTable | ReportFigure]:
        return report_tables(spec, _by_rule(spec, artifacts, "planner"), scores)

    def _check_base(self, spec: MissionSpec, base: FrozenBase) -> None:
        """Refuses a base below the stated floor; measured once a base."""
        floor = {skill: least for skill, least in spec.base_floor.items() if least > 0}
        if not floor or base.digest in self._able:
            return
        from missions.base_model import check_floor

        check_floor(base, spec.base_floor, needed_by=f"mission {spec.id}", num_items=_FLOOR_ITEMS)
        self._able.add(base.digest)

    def _chains(self, ctx: Context, split: Split, setting: Setting) -> list[Chain]:
        """A split as tokens; the last one is kept, because every arm and seed asks for it."""
        items, base = world.load(ctx.data_dir, split), ctx.base()
        key = (base.digest, world.items_digest(items))
        if key not in self._encoded:
            self._encoded.clear()
            self._encoded[key] = encode_chains(items, base.tokenizer, setting.marks)
        return self._encoded[key]

    def _plan_answers(
        self,
        base: FrozenBase,
        artifact: Artifact,
        chains: Sequence[Chain],
        setting: Setting,
    ) -> PlanAnswers:
        """Every plan on every query; kept, because four arms of a seed ask for the same."""
        key = _content(base, artifact, SKILL_ADAPTERS, chains)
        if key not in self._plans:
            self._plans.clear()
            host = contest.load_adapters(base, SKILL_ADAPTERS, artifact.path)
            self._plans[key] = run_plans(host, chains, setting)
            host.detach()
        return self._plans[key]

    def _fused_answers(
        self,
        host: AdapterHost,
        artifact: Artifact,
        chains: Sequence[Chain],
        setting: Setting,
    ) -> Answers:
        """The fused adapter's own answers; kept, because two arms of a seed ask for them."""
        key = _content(host.base, artifact, (FUSED,), chains)
        if key not in self._fused:
            self._fused.clear()
            who = FusedContestant(setting)
            self._fused[key] = run_contestant(host, chains, setting, who)
        return self._fused[key]


def _content(
    base: FrozenBase, artifact: Artifact, names: Sequence[str], chains: Sequence[Chain]
) -> tuple[str, ...]:
    """What answers depend on: base, adapter weights, queries."""
    weights = (contest.adapter_digest(artifact.path / name) for name in names)
    return (base.digest, world.items_digest([chain.item for chain in chains]), *weights)


def _logger(ctx: Context, runs: Iterable[Run]) -> Log:
    """Logs a step of shared training to every run that shares it."""
    sharing = tuple(runs)

    def log(step: int, metrics: dict[str, float]) -> None:
        for run in sharing:
            ctx.log(run, step, metrics)

    return log


def _params(spec: MissionSpec) -> Params:
    return Params.model_validate(spec.params)


def _rule(spec: MissionSpec, run: Run) -> str:
    """How an arm answers: its `adapter` word."""
    word = spec.arms[run.arm].adapter
    if word not in (*EXPERT_RULES, *FUSED_RULES):
        known = ", ".join((*EXPERT_RULES, *FUSED_RULES))
        raise SpecError(f"mission {spec.id}: arms.{run.arm}.adapter: {word!r}. Known: {known}.")
    return word


def _by_rule(
    spec: MissionSpec, artifacts: Mapping[Run, Artifact], rule: str
) -> dict[int, Artifact]:
    """Seed -> artifact of the arm with that rule."""
    return {run.seed: a for run, a in artifacts.items() if _rule(spec, run) == rule}


MISSION = AgenticPlanner()
