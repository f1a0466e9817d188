"""What a contestant costs: parameters, and forward FLOPs of an answer.

FLOPs of a query: the base over all tokens that are processed (prompt, markers, what chunks are
given, what they write; each once, because the cache is kept), the adapters over the tokens for
which they are computed, the controllers over the prompt, the policy once a decision. Products only,
a multiply-add is two. Retrieval is the same for all and left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bem.adapters.generated import GeneratedAdapter
from bem.injection import AdapterHost
from bem.planner import MacroPolicy
from missions.agentic_planner.chains import SKILL_NAMES, SKILLS
from missions.agentic_planner.scoring import Answers
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
