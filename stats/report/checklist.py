"""The reviewer's checklist: every line with its answer, and where the answer is proven.

The rules (`stats.report.checklist_rules`) answer from the verdicts and the scores. What only the
runner can know comes through `ReportContext.checklist` under the line's key. A line that nobody
can answer says that it was not measured; none claims what was not handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stats.report.checklist_rules import RULES, Material
from stats.report.context import Fact, ReportContext, Status
from stats.scores import ScoreTable
from stats.verdict import MissionVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class ChecklistLine:
    """One question with its answer."""

    key: str
    question: str
    answer: str
    where: str
    """Where it is proven; empty where nothing was."""
    status: Status


def checklist(
    verdicts: Sequence[MissionVerdict],
    context: ReportContext,
    scores: Mapping[str, ScoreTable] | None = None,
) -> tuple[ChecklistLine, ...]:
    """All lines in the order of the rules.

    Raises:
        ValueError: the runner answers a line that does not exist.
    """
    unknown = sorted(set(context.checklist) - set(checklist_keys()))
    if unknown:
        raise ValueError(f"Unknown checklist lines {unknown}; known: {list(checklist_keys())}.")
    material = Material(verdicts=verdicts, context=context, scores=scores or {})
    lines: list[ChecklistLine] = []
    for key, question, rule in RULES:
        told = context.checklist.get(key)
        fact = rule(material) if told is None else _fact(told)
        lines.append(
            ChecklistLine(
                key=key,
                question=question,
                answer=fact.answer,
                where=fact.where,
                status=fact.status,
            )
        )
    return tuple(lines)


def checklist_keys() -> tuple[str, ...]:
    """Keys that a runner may answer."""
    return tuple(key for key, _, _ in RULES)


def _fact(told: Fact | str) -> Fact:
    return Fact(answer=told) if isinstance(told, str) else told
