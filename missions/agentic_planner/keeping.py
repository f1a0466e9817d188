"""Writes the artifacts of one seed: what is shared is trained once and kept by every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bem.planner import MacroPolicy
from missions.agentic_planner import contest
from missions.agentic_planner.chains import Chain
from missions.agentic_planner.costs import fused_flops, mean_steps, mean_tokens, planner_flops
from missions.agentic_planner.diagnostics import code_figures
from missions.agentic_planner.outcome import train_em_figures
from missions.agentic_planner.scoring import (
    Answers,
    FusedContestant,
    PolicyContestant,
    exact_matches,
    gold_answers,
    prompt_features,
    run_contestant,
    with_plans,
)
from missions.agentic_planner.skills import FUSED, SKILL_ADAPTERS
from missions.protocol import Artifact, Context, Run
from missions.seeding import numpy_generator
from stats.verdict import ArmCost


def keep_planner(
    planner: contest.Planner,
    field: contest.Ground,
    dev: Sequence[Chain],
    runs: Mapping[str, Run],
    seed: int,
    ctx: Context,
) -> dict[Run, Artifact]:
    """An artifact for every arm that uses the experts. FLOPs: the planner's on the gold chains of
    dev (`served_flops`: as it answers them), the others' on the scored train queries under the
    plans that they would take."""
    host, table = planner.host, planner.scored.table
    answers = run_contestant(host, dev, field.setting, PolicyContestant(planner.policy))
    skill_params = host.num_trainable(*SKILL_ADAPTERS)
    policy_params = sum(p.numel() for p in planner.policy.parameters())
    shared = {
        "final_loss": planner.result.losses[-1],
        "train_cpu_s": planner.cpu_s,
        "train_flops": planner.train_flops,
        "cloned_queries": float(planner.cloned),
        **train_em_figures(table.space.plans, table.score_QP.mean(0).tolist()),
        **code_figures(host, SKILL_ADAPTERS, dev, seed),
    }
    rng = numpy_generator(seed, "agentic_planner", "random_plan", "cost")
    count = len(table.score_QP)
    plans = {
        "fixed": [planner.best_fixed] * count,
        "random": contest.random_plans(table.space, count, rng),
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
            trainable += policy_params
            flops = planner_flops(host, gold_answers(dev), planner.policy)
            figures |= {
                **_dev_figures(answers, dev),
                "policy_params": float(policy_params),
                "served_flops": planner_flops(host, answers, planner.policy),
            }
        else:
            flops = planner_flops(host, planner.scored.answers.of(plans[rule]), None)
        plan = planner.best_fixed if rule == "fixed" else ""
        contest.save_choice(folder, rule, plan, field.setting)
        cost = ArmCost(
            arm=run.arm,
            trainable_params=trainable,
            adapter_params=skill_params,
            forward_flops=flops,
        )
        artifacts[run] = Artifact(path=folder, cost=cost, figures=figures)
    return artifacts


def keep_fused(
    fused: contest.Trained,
    policy: MacroPolicy | None,
    field: contest.Ground,
    dev: Sequence[Chain],
    runs: Mapping[str, Run],
    seed: int,
    ctx: Context,
) -> dict[Run, Artifact]:
    """The fused adapter on its own, and (with a policy) under the planner's plans. FLOPs on the
    gold chains of dev, as the planner's."""
    host = fused.host
    size = host.num_trainable(FUSED)
    own = run_contestant(host, dev, field.setting, FusedContestant(field.setting))
    shared = {
        "final_loss": fused.result.losses[-1],
        "train_cpu_s": fused.cpu_s,
        "train_flops": fused.train_flops,
        **code_figures(host, (FUSED,), dev, seed),
    }
    artifacts = {}
    for rule, run in runs.items():
        folder = ctx.artifact_dir(run)
        contest.save_adapters(host, (FUSED,), folder, seed)
        contest.save_choice(folder, rule, "", field.setting)
        answers, trainable = own, size
        if rule == "shared":
            assert policy is not None
            contest.save_policy(policy, folder)
            trainable += sum(p.numel() for p in policy.parameters())
            plans = policy.plan(prompt_features(host, dev, field.setting))
            answers = with_plans(host, dev, field.setting, own, plans)
        cost = ArmCost(
            arm=run.arm,
            trainable_params=trainable,
            adapter_params=size,
            forward_flops=fused_flops(host, gold_answers(dev)),
        )
        figures = {
            **shared,
            **_dev_figures(answers, dev),
            "served_flops": fused_flops(host, answers),
        }
        artifacts[run] = Artifact(path=folder, cost=cost, figures=figures)
    return artifacts


def _dev_figures(answers: Answers, dev: Sequence[Chain]) -> dict[str, float]:
    gold = [chain.item.query.plan for chain in dev]
    return {
        "dev_em": float(exact_matches(answers, dev).mean()),
        "dev_gold_plan": float(np.mean([a == b for a, b in zip(answers.plans, gold, strict=True)])),
        "dev_steps": mean_steps(answers),
        **mean_tokens(answers),
    }
