"""`registry verify`: bytes against manifests, rows against folders, the chain of decisions.

Reads only. Knows no weights: a bit that is not the one registered is found by its hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.errors import LedgerError
from fleet.registry.folders import read_manifest
from fleet.registry.reader import RegistryReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found."""

    models: int
    files: int
    size_bytes: int
    decisions: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    """Worth knowing, not wrong: folders that a crash left behind."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"ok": self.ok, **{name: getattr(self, name) for name in self.__slots__}}


def check(reader: RegistryReader, name: str | None = None) -> Report:
    """Verifies one model, or everything."""
    rows = reader.models() if name is None else [reader.resolve(name)]
    problems: list[str] = []
    files = size = 0
    for row in rows:
        found = reader.problems(row)
        problems += [f"{row.id}: {text}" for text in found]
        if not found:
            kept = read_manifest(reader.folder(row)).files
            files += len(kept)
            size += sum(facts.size_bytes for facts in kept.values())
    decisions = 0
    try:
        links = reader.decisions()
        decisions = len(links)
        told = {
            str(link.body["model"]): link
            for link in links
            if link.kind in ("promotion", "online_update")
        }
        for row in rows:
            link = told.get(row.id)
            if link is None:
                problems.append(f"{row.id}: no decision promoted it.")
            elif link.body["manifest_sha256"] != row.manifest_sha256:
                problems.append(f"{row.id}: its row is not what decision {link.seq} promoted.")
    except LedgerError as error:
        problems.append(str(error))
    return Report(
        models=len(rows),
        files=files,
        size_bytes=size,
        decisions=decisions,
        problems=tuple(problems),
        notes=tuple(_orphans(reader)) if name is None else (),
    )


def _orphans(reader: RegistryReader) -> list[str]:
    known = {row.digest for row in reader.models()}
    folder = reader.paths.models
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [
        f"{folder / name}: no row points to it (a crash while promoting); of no effect."
        for name in found
        if name not in known
    ]
