"""The verdict table in its short form: what is compared between two launches. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleet.keys import canonical_digest
from fleet.ledger.records import Decision

GATE_FIELDS = (
    "gate",
    "decision",
    "estimate",
    "interval",
    "bootstrap",
    "p_value",
    "mde",
    "treatment_mean",
    "control_mean",
)


def newest_verdicts(links: Iterable[Decision]) -> list[Decision]:
    """The verdict that stands of every mission: retried runs are judged again."""
    found = {str(link.body["mission"]): link for link in links if link.kind == "verdict"}
    return [found[name] for name in sorted(found)]


def verdict_table(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every figure that a verdict rests on, in order of mission."""
    table = []
    for verdict in sorted(verdicts, key=lambda item: str(item["mission"])):
        table.append(
            {
                "mission": verdict["mission"],
                "verdict": verdict["verdict"],
                "p_value": verdict["p_value"],
                "scores_digest": verdict["scores_digest"],
                "family": verdict["family"],
                "gates": [{name: gate[name] for name in GATE_FIELDS} for gate in verdict["gates"]],
            }
        )
    return table


def verdict_digest(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """sha256 of the table; two launches with the same digest say exactly the same."""
    return canonical_digest(verdict_table(verdicts))
