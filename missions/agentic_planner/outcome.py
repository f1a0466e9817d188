"""From answers to score rows, and from score rows to the tables of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from missions.agentic_planner.chains import Chain
from missions.agentic_planner.queries import KINDS
from missions.agentic_planner.scoring import Answers, exact_matches, token_f1
from missions.protocol import Artifact, ReportTable, Run
from missions.spec import MissionSpec
from stats.scores import ScoreTable

_Row = tuple[str | float | int, ...]
_TRAIN_EM = "train_em_"
_BY_TYPE = (
    ("em", "Exact match by query type", "Mean over seeds and test queries."),
    ("retrieves", "Share of plans that retrieve", "On TRAP the index is out of date."),
    ("steps", "Plan length", "Steps; at most three by construction."),
)


def scores_of(run: Run, answers: Answers, chains: Sequence[Chain]) -> ScoreTable:
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


def train_em_figures(plans: Sequence[str], means: Sequence[float]) -> dict[str, float]:
    """Mean exact match of each plan on the train queries, as figures of an artifact."""
    return {f"{_TRAIN_EM}{plan}": float(em) for plan, em in zip(plans, means, strict=True)}


def report_tables(
    spec: MissionSpec, planners: Mapping[int, Artifact], scores: ScoreTable
) -> list[ReportTable]:
    """Figures by query type, and the reward table by seed."""
    frame = scores.frame
    kind = frame["example_id"].str.split("-").str[1]
    tables = []
    for metric, title, caption in _BY_TYPE:
        chosen = frame[frame["metric"] == metric]
        groups = chosen.groupby(["arm", kind[chosen.index]])["value"]
        means = {key: float(np.mean(values)) for key, values in groups}
        rows: tuple[_Row, ...] = tuple(
            (arm, *(means[arm, name] for name in KINDS))
            for arm in spec.arms
            if (arm, KINDS[0]) in means
        )
        tables.append(ReportTable(title=title, caption=caption, columns=("arm", *KINDS), rows=rows))
    if planners:
        tables.append(_plan_table(planners))
    return tables


def _plan_table(planners: Mapping[int, Artifact]) -> ReportTable:
    seeds = sorted(planners)
    first = planners[seeds[0]].figures
    plans = [name.removeprefix(_TRAIN_EM) for name in first if name.startswith(_TRAIN_EM)]
    rows: tuple[_Row, ...] = tuple(
        (plan, *(planners[seed].figures[_TRAIN_EM + plan] for seed in seeds)) for plan in plans
    )
    return ReportTable(
        title="Reward table: exact match of every plan, by seed",
        caption="Train queries, frozen experts; R retrieve-use, E reason, F format.",
        columns=("plan", *(f"seed {seed}" for seed in seeds)),
        rows=rows,
    )
