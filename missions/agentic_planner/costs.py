"""What a contestant costs: parameters, and forward FLOPs of an answer.

FLOPs of a query: the base over all tokens that are processed (prompt, markers, what chunks are
given, what they write; each once, because the cache is kept), the adapters over the tokens for
which they are computed, the controllers over the prompt, the policy once a decision. Products only,
a multiply-add is two. Retrieval is the same for all and left out.

FLOPs of training, in the same terms: a trained token is two passes of the base (forward, and
backward through its activations; frozen weights take no gradient) and three of what learns; a token
that is only run, for a reward table, is one. Padding is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from bem.adapters.generated import GeneratedAdapter
from bem.base import BaseModel
from bem.injection import AdapterHost
from bem.planner import MacroPolicy
from bem.planner.policy import decision_weights
from missions.agentic_planner.chains import SKILL_NAMES, SKILLS, Chain
from missions.agentic_planner.scoring import Answers, FloatArray, PlanAnswers, gold_answers
from missions.agentic_planner.skills import FUSED, SKILL_ADAPTERS


def planner_flops(host: AdapterHost, answers: Answers, policy: MacroPolicy | None) -> float:
    """Mean FLOPs of an answer by skill experts; `policy` None: the plan was given."""
    total = 0.0
    rows = zip(answers.plans, answers.tokens_QS.tolist(), answers.acting_QS.tolist(), strict=True)
    for plan, tokens_S, acting_S in rows:
        total += host.base.forward_flops(batch=1, seq_len=sum(tokens_S))
        for skill, tokens in zip(SKILLS, acting_S[1:], strict=True):
            total += _adapter(host, SKILL_NAMES[skill], tokens_S[0], tokens)
        if policy is not None:
            total += policy.forward_flops(len(plan) + 1)
    return total / len(answers.plans)


def fused_flops(host: AdapterHost, answers: Answers) -> float:
    """Mean FLOPs of an answer by the fused adapter, which is computed over the whole prompt."""
    total = 0.0
    for tokens_S, acting_S in zip(
        answers.tokens_QS.tolist(), answers.acting_QS.tolist(), strict=True
    ):
        prompt = tokens_S[0]
        total += host.base.forward_flops(batch=1, seq_len=sum(tokens_S))
        total += _adapter(host, FUSED, prompt, prompt + sum(acting_S))
    return total / len(answers.plans)


def chain_training_flops(host: AdapterHost, chains: Sequence[Chain], *, fused: bool) -> float:
    """Mean FLOPs of training on one of these chains."""
    gold = gold_answers(chains)
    passes = fused_flops(host, gold) if fused else planner_flops(host, gold, None)
    lengths = gold.tokens_QS.sum(1).tolist()
    base = float(np.mean([host.base.forward_flops(batch=1, seq_len=n) for n in lengths]))
    return 2 * base + 3 * (passes - base)


def table_flops(host: AdapterHost, answers: PlanAnswers, *, fused: bool) -> float:
    """FLOPs of running every plan on every query; what two plans share counts once."""
    space, total = answers.space, 0.0
    prompts = answers.by_plan[space.plans[0]].tokens_QS[:, 0].tolist()
    for prompt in prompts:
        total += host.base.forward_flops(batch=1, seq_len=prompt)
        names = (FUSED,) if fused else SKILL_ADAPTERS
        total += sum(_adapter(host, name, prompt, prompt if fused else 0) for name in names)
    for plan in space.plans:
        found, column = answers.by_plan[plan], 1 + SKILLS.index(plan[-1])
        name = FUSED if fused else SKILL_NAMES[plan[-1]]
        ends = found.tokens_QS.sum(1)
        starts = ends - found.tokens_QS[:, column]
        acting = found.acting_QS[:, column].tolist()
        for start, end, tokens in zip(starts.tolist(), ends.tolist(), acting, strict=True):
            total += host.base.forward_flops(batch=1, seq_len=end)
            total -= host.base.forward_flops(batch=1, seq_len=start)
            total += _adapter(host, name, 0, tokens)
    return total


def reading_flops(base: BaseModel, chains: Sequence[Chain]) -> float:
    """FLOPs of the base over the prompts alone, once."""
    return float(sum(base.forward_flops(batch=1, seq_len=len(c.prompt)) for c in chains))


def policy_training_flops(policy: MacroPolicy, weight_QP: FloatArray, steps: int) -> float:
    """FLOPs of cloning: forward and backward of every decision that some weighted plan takes."""
    decisions = decision_weights(policy.space, torch.from_numpy(weight_QP)).sum(2) > 0
    return 3 * steps * policy.forward_flops(int(decisions.sum()))


def mean_tokens(answers: Answers) -> Mapping[str, float]:
    """Mean tokens a query by part."""
    names = ("prompt", *SKILL_ADAPTERS)
    means = answers.tokens_QS.mean(0)
    return {f"tokens_{name}": float(value) for name, value in zip(names, means, strict=True)}


def _adapter(host: AdapterHost, name: str, prompt: int, tokens: int) -> float:
    """An adapter that reads `prompt` tokens for its code and acts on `tokens` tokens."""
    adapter = host[name]
    assert isinstance(adapter, GeneratedAdapter)
    whole = adapter.forward_flops(batch=1, seq_len=tokens)
    controller = adapter.controller.forward_flops(batch=1, seq_len=tokens)
    return whole - controller + adapter.controller.forward_flops(batch=1, seq_len=prompt)


def mean_steps(answers: Answers) -> float:
    """Mean plan length."""
    return float(np.mean([len(plan) for plan in answers.plans]))
