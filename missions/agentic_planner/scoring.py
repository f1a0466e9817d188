"""Answers on a set of queries: of all plans at once, or of one contestant as it would be served.

All seven plans of a query form a tree, and what two plans have in common is run once (`run_plans`).
A contestant takes one branch of that tree: a chooser says which (`run_contestant`). Token counts
are those of the sequences as they were run. It knows neither training nor policies.

Legend: Q queries, P plans, B rows, F features, V vocabulary.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bem.injection import AdapterHost
from bem.planner import ChunkEngine, MacroPolicy, PlanSpace, Walk
from missions.agentic_planner.chains import SKILL_NAMES, SKILLS, Chain, Marks
from missions.agentic_planner.skills import FUSED, SKILL_ADAPTERS

_WORD = re.compile(r"[A-Za-z0-9.]+")
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_Told = list[list[int]] | None
"""What the step before wrote for each row; None at the first step."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every run of chains needs."""

    marks: Marks
    space: PlanSpace
    budget: Mapping[str, int]
    """Most tokens that each skill may write."""
    rows: int
    """Queries side by side."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of one plan a query."""

    plans: list[str]
    texts: list[str]
    """The last chunk's text: the answer."""
    tokens_QS: IntArray
    """Tokens of each query in: the prompt, then the chunk of each skill (R, E, F)."""
    acting_QS: IntArray
    """Those on which an adapter acts: 0 for the prompt, then of each skill's chunk."""

    def put(
        self,
        index: Sequence[int],
        skill: str,
        given: Sequence[Sequence[int]],
        before: Walk,
        after: Walk,
    ) -> None:
        """Counts a chunk of some queries."""
        used = (after.length_B - before.length_B).cpu().numpy()
        column = 1 + SKILLS.index(skill)
        self.tokens_QS[index, column] = used
        self.acting_QS[index, column] = used - np.array([len(row) - 1 for row in given])


@dataclass(frozen=True, kw_only=True)
class PlanAnswers:
    """Every plan's answers, in the order of `space.plans`, and the policy's features."""

    space: PlanSpace
    by_plan: Mapping[str, Answers]
    features_QF: Tensor

    def of(self, plans: Sequence[str]) -> Answers:
        """One named plan a query."""
        rows = [self.by_plan[plan] for plan in plans]
        return Answers(
            plans=list(plans),
            texts=[answers.texts[i] for i, answers in enumerate(rows)],
            tokens_QS=np.stack([answers.tokens_QS[i] for i, answers in enumerate(rows)]),
            acting_QS=np.stack([answers.acting_QS[i] for i, answers in enumerate(rows)]),
        )


def run_plans(
    host: AdapterHost, chains: Sequence[Chain], setting: Setting, *, fused: bool = False
) -> PlanAnswers:
    """Runs every plan on every query with the three skills of the host, or its fused adapter."""
    acting, ready = ((FUSED,), ()) if fused else ((), SKILL_ADAPTERS)
    engine = ChunkEngine(host, separator_id=setting.marks.separator)
    space = setting.space
    found = {plan: _blank([plan] * len(chains)) for plan in space.plans}
    features: list[Tensor] = [torch.empty(0)] * len(chains)
    for index in _groups(chains, setting.rows):
        group = [chains[i] for i in index]
        start = engine.prefill([c.prompt for c in group], acting=acting, ready=ready)
        for i, feature_F in zip(index, start.features_BF, strict=True):
            features[i] = feature_F
        for answers in found.values():
            answers.tokens_QS[index, 0] = [len(c.prompt) for c in group]
        todo: list[tuple[str, Walk, _Told]] = [("", start.walk, None)]
        while todo:
            prefix, walk, told = todo.pop()
            for skill in filter(None, space.legal(prefix)):
                plan = prefix + skill
                given = _given(group, skill, setting.marks, told)
                adapter = FUSED if fused else SKILL_NAMES[skill]
                chunk = engine.extend(walk, adapter, given, max_new=setting.budget[skill])
                answers = found[plan]
                if prefix:
                    answers.tokens_QS[index] = found[prefix].tokens_QS[index]
                    answers.acting_QS[index] = found[prefix].acting_QS[index]
                answers.put(index, skill, given, walk, chunk.walk)
                _put_texts(host, answers, index, chunk.tokens)
                if len(space.legal(plan)) > 1:
                    todo.append((plan, chunk.walk, chunk.tokens))
    return PlanAnswers(space=space, by_plan=found, features_QF=torch.stack(features))


class Contestant(ABC):
    """Who answers: which adapters act, and which branch is taken."""

    acting: tuple[str, ...]
    """Adapters that act on the prompt."""
    ready: tuple[str, ...]
    """Adapters whose codes are read off the prompt for later chunks."""

    @abstractmethod
    def adapter(self, skill: str) -> str:
        """The adapter of a chunk."""

    @abstractmethod
    def start(self, queries: Sequence[int], features_BF: Tensor) -> None:
        """Told of the prompt's features once, before the first choice."""

    @abstractmethod
    def choose(self, queries: Sequence[int], prefix: str, logits_BV: Tensor) -> list[str]:
        """The next legal action of each query; empty: stop."""


class PolicyContestant(Contestant):
    """The planner: its policy fixes the plan from the prompt's features."""

    acting = ()
    ready = SKILL_ADAPTERS

    def __init__(self, policy: MacroPolicy) -> None:
        self._policy = policy
        self._plans: dict[int, str] = {}

    def adapter(self, skill: str) -> str:
        return SKILL_NAMES[skill]

    def start(self, queries: Sequence[int], features_BF: Tensor) -> None:
        self._plans.update(zip(queries, self._policy.plan(features_BF), strict=True))

    def choose(self, queries: Sequence[int], prefix: str, logits_BV: Tensor) -> list[str]:
        step = len(prefix)
        return [self._plans[i][step : step + 1] for i in queries]


class FusedContestant(Contestant):
    """The fused adapter: it takes the legal marker that it finds likeliest, and formats last."""

    acting = (FUSED,)
    ready = ()

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def adapter(self, skill: str) -> str:
        return FUSED

    def start(self, queries: Sequence[int], features_BF: Tensor) -> None:
        pass

    def choose(self, queries: Sequence[int], prefix: str, logits_BV: Tensor) -> list[str]:
        skills = [action for action in self._setting.space.legal(prefix) if action]
        if not skills:
            return [""] * len(queries)
        markers = [self._setting.marks.marker[skill] for skill in skills]
        return [skills[i] for i in logits_BV[:, markers].argmax(1).tolist()]


class GivenPlans(Contestant):
    """The fused adapter under plans that someone else has chosen, one a query."""

    acting = (FUSED,)
    ready = ()

    def __init__(self, plans: Sequence[str]) -> None:
        self._plans = plans

    def adapter(self, skill: str) -> str:
        return FUSED

    def start(self, queries: Sequence[int], features_BF: Tensor) -> None:
        pass

    def choose(self, queries: Sequence[int], prefix: str, logits_BV: Tensor) -> list[str]:
        step = len(prefix)
        return [self._plans[i][step : step + 1] for i in queries]


def run_contestant(
    host: AdapterHost, chains: Sequence[Chain], setting: Setting, who: Contestant
) -> Answers:
    """Runs the branches that a contestant takes."""
    engine = ChunkEngine(host, separator_id=setting.marks.separator)
    found = _blank([""] * len(chains))
    for index in _groups(chains, setting.rows):
        start = engine.prefill(
            [chains[i].prompt for i in index], acting=who.acting, ready=who.ready
        )
        who.start(index, start.features_BF)
        found.tokens_QS[index, 0] = [len(chains[i].prompt) for i in index]
        todo: list[tuple[list[int], str, Walk, Tensor, _Told]] = [
            (index, "", start.walk, start.logits_BV, None)
        ]
        while todo:
            members, prefix, walk, logits_BV, told = todo.pop()
            actions = who.choose(members, prefix, logits_BV)
            for skill in sorted(set(actions) - {""}):
                rows = [row for row, action in enumerate(actions) if action == skill]
                chosen = [members[row] for row in rows]
                known = None if told is None else [told[row] for row in rows]
                before = walk.take(torch.tensor(rows, device=walk.device))
                given = _given([chains[i] for i in chosen], skill, setting.marks, known)
                chunk = engine.extend(
                    before, who.adapter(skill), given, max_new=setting.budget[skill]
                )
                found.put(chosen, skill, given, before, chunk.walk)
                _put_texts(host, found, chosen, chunk.tokens)
                for i in chosen:
                    found.plans[i] = prefix + skill
                todo.append((chosen, prefix + skill, chunk.walk, chunk.logits_BV, chunk.tokens))
    return found


def prompt_features(host: AdapterHost, chains: Sequence[Chain], setting: Setting) -> Tensor:
    """The policy's features (Q, F), as the base's prefill gives them."""
    engine = ChunkEngine(host, separator_id=setting.marks.separator)
    features: list[Tensor] = [torch.empty(0)] * len(chains)
    for index in _groups(chains, setting.rows):
        start = engine.prefill([chains[i].prompt for i in index], acting=(), ready=())
        for i, feature_F in zip(index, start.features_BF, strict=True):
            features[i] = feature_F
    return torch.stack(features)


def with_plans(
    host: AdapterHost,
    chains: Sequence[Chain],
    setting: Setting,
    own: Answers,
    plans: Sequence[str],
) -> Answers:
    """The fused adapter's answers under given plans; where it chose the same, `own` stands."""
    other = [i for i, (a, b) in enumerate(zip(own.plans, plans, strict=True)) if a != b]
    answers = Answers(
        plans=list(plans),
        texts=list(own.texts),
        tokens_QS=own.tokens_QS.copy(),
        acting_QS=own.acting_QS.copy(),
    )
    if other:
        part = run_contestant(
            host, [chains[i] for i in other], setting, GivenPlans([plans[i] for i in other])
        )
        answers.tokens_QS[other] = part.tokens_QS
        answers.acting_QS[other] = part.acting_QS
        for i, text in zip(other, part.texts, strict=True):
            answers.texts[i] = text
    return answers


def gold_answers(chains: Sequence[Chain]) -> Answers:
    """The chains (as a rule the gold ones) as if they had been run."""
    found = _blank(["".join(c.skill for c in chain.chunks) for chain in chains])
    for row, chain in enumerate(chains):
        found.texts[row] = chain.item.query.answer
        found.tokens_QS[row, 0] = len(chain.prompt)
        for chunk in chain.chunks:
            column = 1 + SKILLS.index(chunk.skill)
            found.tokens_QS[row, column] = len(chunk.given) + len(chunk.written)
            found.acting_QS[row, column] = 1 + len(chunk.written)
    return found


def exact_match(answer: str, gold: str) -> float:
    """1 where the texts are equal."""
    return float(answer == gold)


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the words of the two texts (SQuAD's F1)."""
    ours, theirs = Counter(_WORD.findall(answer)), Counter(_WORD.findall(gold))
    common = sum((ours & theirs).values())
    if common == 0:
        return 0.0
    return 2 * common / (sum(ours.values()) + sum(theirs.values()))


def em_table(answers: PlanAnswers, chains: Sequence[Chain]) -> FloatArray:
    """Exact match (Q, P) of every plan."""
    columns = [exact_matches(answers.by_plan[plan], chains) for plan in answers.space.plans]
    return np.stack(columns, axis=1)


def exact_matches(answers: Answers, chains: Sequence[Chain]) -> FloatArray:
    """Exact match (Q,) of one answer a query."""
    pairs = zip(answers.texts, chains, strict=True)
    return np.array([exact_match(text, chain.item.query.answer) for text, chain in pairs])


def _blank(plans: list[str]) -> Answers:
    return Answers(
        plans=plans,
        texts=[""] * len(plans),
        tokens_QS=np.zeros((len(plans), 1 + len(SKILLS)), np.int64),
        acting_QS=np.zeros((len(plans), 1 + len(SKILLS)), np.int64),
    )


def _put_texts(
    host: AdapterHost, answers: Answers, index: Sequence[int], tokens: Sequence[Sequence[int]]
) -> None:
    for i, written in zip(index, tokens, strict=True):
        answers.texts[i] = host.base.tokenizer.decode(list(written))


def _given(group: Sequence[Chain], skill: str, marks: Marks, told: _Told) -> list[tuple[int, ...]]:
    facts = [None] * len(group) if told is None else told
    return [c.parts.given(skill, marks, each) for c, each in zip(group, facts, strict=True)]


def _groups(chains: Sequence[Chain], rows: int) -> list[list[int]]:
    """Queries of like prompt length, `rows` at a time."""
    order = sorted(range(len(chains)), key=lambda i: (len(chains[i].prompt), i))
    return [order[i : i + rows] for i in range(0, len(order), rows)]
