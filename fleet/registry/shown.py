"""The registry on a terminal and as JSON: what `registry list` and `registry show` say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fleet.registry.reader import RegistryReader
from fleet.registry.records import ModelRow

_NAMING = ("model", "withdrawn", "restored", "canary", "parent", "promoted")
"""Fields of a decision that name a model."""


def listing(reader: RegistryReader) -> dict[str, Any]:
    """All models with their aliases."""
    aliases: dict[str, list[str]] = {}
    for row in reader.aliases():
        aliases.setdefault(row.model, []).append(row.alias)
    return {
        "registry": str(reader.paths.root),
        "version": reader.version(),
        "models": [
            {**row.to_dict(), "aliases": aliases.get(row.id, [])} for row in reader.models()
        ],
    }


def shown(reader: RegistryReader, row: ModelRow) -> dict[str, Any]:
    """One model with everything that is known of it."""
    decisions = [
        {"seq": link.seq, "at": link.at, "kind": link.kind, "hash": link.hash, **link.body}
        for link in reader.decisions()
        if row.id in (link.body.get(key) for key in _NAMING)
    ]
    return {
        "model": row.to_dict(),
        "aliases": [alias.name for alias in reader.aliases(row.line) if alias.model == row.id],
        "folder": str(reader.folder(row)),
        "manifest": reader.manifest(row).model_dump(mode="json"),
        "decisions": decisions,
    }


def print_listing(document: Mapping[str, Any]) -> None:
    """Two lines a model: its id with the aliases, then what it is."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for model in document["models"]:
        head = Text(model["id"], style="bold")
        head.append("  " + ", ".join(model["aliases"]), style="green")
        forced = f", forced: {model['forced']}" if model["forced"] else ""
        facts = (
            f"  {model['kind']}, {model['verdict']}{forced}; run {model['run_id']}, "
            f"{model['size_bytes'] / 1024:,.0f} KiB, {when(model['created_at'])}"
        )
        console.print(head, Text(facts, style="bright_black"), sep="\n", soft_wrap=True)
    if not document["models"]:
        console.print("nothing is registered")


def print_model(document: Mapping[str, Any]) -> None:
    """Facts, one a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    manifest = document["manifest"]
    lineage, choice = manifest["lineage"], manifest["lineage"]["choice"]
    base = manifest["base_model"]
    values = ", ".join(f"{seed}: {_number(value)}" for seed, value in choice["values"].items())
    facts = {
        "model": manifest["id"],
        "aliases": ", ".join(document["aliases"]) or "none",
        "kind": manifest["kind"],
        "base": f"{base['ref']} ({base['digest'][:12]})" if base else "none",
        "verdict": lineage["verdict"]
        + (f", forced: {lineage['forced']}" if lineage["forced"] else ""),
        "run": f"{lineage['run_id']}, {lineage['profile']}, commit {lineage['commit'][:12]}",
        "mission": f"hash {lineage['mission_hash'][:12]}, data {lineage['data_digest'][:12]}",
        "seed": f"{choice['seed']} of {', '.join(map(str, lineage['seeds']))}: {choice['rule']}",
        choice["figure"]: values,
        "parents": ", ".join(lineage["parents"]) or "none",
        "folder": document["folder"],
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    for gate in lineage["figures"]:
        interval = f" [{_number(gate['low'])}, {_number(gate['high'])}]"
        table.add_row(
            Text(f"gate {gate['gate']}"),
            Text(f"{gate['decision']}  {_number(gate['estimate'])}{interval}  {gate['metric']}"),
        )
    for link in document["decisions"]:
        words = [link["kind"], str(link.get("alias") or ""), str(link.get("reason") or "")]
        said = " ".join(word for word in words if word)
        table.add_row(
            Text(f"decision {link['seq']}"), Text(f"{when(link['at'])}  {said}  ({link['actor']})")
        )
    Console().print(table)


def when(at: float) -> str:
    """`2026-11-26 14:50` in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}"
