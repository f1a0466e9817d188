"""The registry: models by line, what the aliases point to, their lineage, traffic, decisions.

Plain data out; it draws nothing and verifies nothing (`fleet.py registry verify` reads every byte).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.errors import NotFoundError, StorageError
from fleet.ledger.records import Decision
from fleet.page.traffic import TrafficRow, TrafficSource
from fleet.registry.reader import RegistryReader
from fleet.registry.records import Manifest, ModelRow

MAX_DECISIONS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """One model."""

    row: ModelRow
    aliases: tuple[str, ...]
    manifest: Manifest | None
    problem: str
    traffic: TrafficRow | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryPage:
    """Everything on the registry's page."""

    root: str
    lines: Mapping[str, tuple[ModelCard, ...]]
    """Line -> its models: those with an alias first."""
    decisions: Sequence[Decision]
    """Newest first."""
    problem: str
    served: bool
    """Whether a server tells of its traffic."""


def registry_view(root: Path, traffic: TrafficSource | None) -> RegistryPage:
    """Looks at the registry; an empty one is a page, not an error."""
    rows = {row.model: row for row in traffic()} if traffic is not None else {}
    try:
        reader = RegistryReader(root)
    except NotFoundError:
        return RegistryPage(
            root=str(root), lines={}, decisions=(), problem="", served=traffic is not None
        )
    with reader:
        aliases: dict[str, list[str]] = {}
        for alias in reader.aliases():
            aliases.setdefault(alias.model, []).append(alias.alias)
        cards: dict[str, list[ModelCard]] = {}
        for model in reader.models():
            manifest, problem = None, ""
            try:
                manifest = reader.manifest(model)
            except StorageError as error:
                problem = str(error)
            cards.setdefault(model.line, []).append(
                ModelCard(
                    row=model,
                    aliases=tuple(aliases.get(model.id, ())),
                    manifest=manifest,
                    problem=problem,
                    traffic=rows.get(model.id),
                )
            )
        problem = ""
        decisions: list[Decision] = []
        try:
            decisions = reader.decisions()[::-1][:MAX_DECISIONS]
        except StorageError as error:
            problem = str(error)
    order = {"champion": 0, "canary": 1, "previous": 2}
    return RegistryPage(
        root=str(root),
        lines={
            line: tuple(
                sorted(found, key=lambda card: min([order[a] for a in card.aliases], default=9))
            )
            for line, found in sorted(cards.items())
        },
        decisions=decisions,
        problem=problem,
        served=traffic is not None,
    )


def said(decision: Decision) -> str:
    """A decision in a sentence."""
    body: Mapping[str, Any] = decision.body
    if decision.kind == "promotion":
        to = f" as {body['alias']}" if body["alias"] else " without an alias"
        forced = f"; forced: {body['forced']}" if body["forced"] else ""
        return f"{body['model']} registered{to}, verdict {body['verdict']}{forced}"
    if decision.kind == "alias":
        return f"{body['model']} is {body['alias']}"
    if decision.kind == "online_update":
        to = f" as {body['alias']}" if body["alias"] else " without an alias"
        up = f"; {body['promoted']} is champion" if body["promoted"] else ""
        return f"online learner: {body['model']} registered{to}{up}: {body['reason']}"
    if decision.kind == "online_rollback":
        out = f"; canary {body['canary']} taken out" if body["canary"] else ""
        return f"online learner of {body['line']} went back{out}: {body['reason']}"
    if decision.kind in ("online_start", "online_hold"):
        did = "begins from" if decision.kind == "online_start" else "learns on from"
        return f"online learner of {body['line']} {did} {body['model']}: {body['reason']}"
    if "canary" in body:
        return f"canary {body['canary']} taken out: {body['reason']}"
    return f"{body['restored']} is champion again; {body['withdrawn']} withdrawn: {body['reason']}"
