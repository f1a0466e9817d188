"""Executed plans as something to learn from: what a fused adapter may be told about outcomes.

From a table of all plans on some queries: a plan is drawn by softmax(reward / temperature), as the
policy clones it, and its chain is learned with the text that was written when the plan was run (the
gold text where the plan is the gold one). Queries that no plan solves say nothing. Learning from
one's own right answers is that of STaR (arXiv 2203.14465); drawing by reward is ours. It knows
neither adapters nor training.

Legend: Q queries, P plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bem.planner import RewardTable
from missions.agentic_planner.chains import Chain, Chunk, Marks
from missions.agentic_planner.scoring import FloatArray, PlanAnswers


@dataclass(frozen=True, kw_only=True)
class Executed:
    """The scored queries that some plan solves."""

    chains: tuple[Chain, ...]
    """Their gold chains."""
    by_plan: tuple[tuple[Chain, ...], ...]
    """For each query the chain of every plan, in the order of the plan space."""
    weight_QP: FloatArray
    """How likely a plan is drawn."""

    def draw(self, rng: np.random.Generator) -> list[Chain]:
        """One chain a query."""
        sums_QP = self.weight_QP.cumsum(1)
        at_Q = (rng.random(len(sums_QP))[:, None] > sums_QP).sum(1)
        plans = np.minimum(at_Q, sums_QP.shape[1] - 1)
        return [row[int(i)] for row, i in zip(self.by_plan, plans, strict=True)]

    def among(self, pool: Sequence[Chain], rng: np.random.Generator) -> list[Chain]:
        """The pool with a drawn chain in place of each gold chain that is known here."""
        drawn = {chain.item.query.id: chain for chain in self.draw(rng)}
        return [drawn.get(chain.item.query.id, chain) for chain in pool]


def executed(
    queries: Sequence[Chain],
    answers: PlanAnswers,
    table: RewardTable,
    temperature: float,
    tokenizer: Any,
    marks: Marks,
) -> Executed:
    """What `answers` (every plan on `queries`) and their rewards leave to learn."""
    solved = np.flatnonzero(table.solvable())
    written = {plan: _encode(tokenizer, answers.by_plan[plan].texts) for plan in table.space.plans}
    rows = [
        tuple(_chain(queries[i], plan, i, written, marks) for plan in table.space.plans)
        for i in solved.tolist()
    ]
    return Executed(
        chains=tuple(queries[i] for i in solved.tolist()),
        by_plan=tuple(rows),
        weight_QP=table.plan_weights(temperature)[solved],
    )


def _chain(
    gold: Chain,
    plan: str,
    row: int,
    written: Mapping[str, Sequence[tuple[int, ...]]],
    marks: Marks,
) -> Chain:
    """`written`: plan -> what its last step wrote for every query; a prefix of a plan is a plan."""
    if plan == gold.item.query.plan:
        return gold
    told: tuple[int, ...] | None = None
    chunks = []
    for step, skill in enumerate(plan):
        given = gold.parts.given(skill, marks, told)
        told = written[plan[: step + 1]][row]
        chunks.append(Chunk(skill=skill, given=given, written=(*told, marks.separator)))
    return replace(gold, chunks=tuple(chunks))


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
