"""Reads a registry from any process, while its writer works. It opens it read-only."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from fleet.errors import NotFoundError, StorageError, UsageError
from fleet.ledger import chain
from fleet.ledger.database import open_reader
from fleet.ledger.records import Decision
from fleet.registry.folders import RegistryPaths, problems_of, read_manifest
from fleet.registry.records import ALIASES, AliasRow, Manifest, ModelRow
from fleet.registry.schema import REGISTRY

_COLUMNS = ", ".join(ModelRow.__slots__)


class RegistryReader(AbstractContextManager["RegistryReader"]):
    """Read-only view of one registry.

    Raises:
        NotFoundError: nothing was ever promoted into this folder.
    """

    def __init__(self, root: Path) -> None:
        self.paths = RegistryPaths(root=root)
        if not self.paths.database.is_file():
            raise NotFoundError(
                f"No registry in {root}: nothing was promoted into it.",
                go_on="python fleet.py promote RUN",
            )
        self._cx: sqlite3.Connection = open_reader(self.paths.database, REGISTRY)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._cx.close()

    def version(self) -> int:
        """Number of the newest decision: grows with every change, cheap to ask for often."""
        return int(self._cx.execute("SELECT coalesce(max(seq), 0) FROM decisions").fetchone()[0])

    def models(self, line: str | None = None) -> list[ModelRow]:
        """Registered models, newest first."""
        rows = self._cx.execute(
            f"SELECT {_COLUMNS} FROM models WHERE ?1 IS NULL OR line = ?1"
            " ORDER BY created_at DESC, rowid DESC",
            (line,),
        ).fetchall()
        return [ModelRow(**dict(zip(ModelRow.__slots__, row, strict=True))) for row in rows]

    def aliases(self, line: str | None = None) -> list[AliasRow]:
        """Aliases in order of line; champion, canary, previous."""
        rows = self._cx.execute(
            "SELECT line, alias, model, since FROM aliases WHERE ?1 IS NULL OR line = ?1", (line,)
        ).fetchall()
        found = [AliasRow(line=ln, alias=al, model=md, since=at) for ln, al, md, at in rows]
        return sorted(found, key=lambda row: (row.line, ALIASES.index(row.alias)))

    def resolve(self, name: str) -> ModelRow:
        """A model by id, `line@alias`, `mission@alias`, mission, or the first digits of its sha256.

        A mission or line alone is its champion.

        Raises:
            NotFoundError: no such model; lists what there is.
            UsageError: the short name fits several.
        """
        models = {row.id: row for row in self.models()}
        if name in models:
            return models[name]
        aliases = self.aliases()
        wanted, _, alias = name.partition("@")
        found = {
            row.model
            for row in aliases
            if row.alias == (alias or "champion")
            and wanted in (row.line, row.line.rpartition(":")[2])
        }
        if len(name) >= 4:
            found |= {row.id for row in models.values() if row.digest.startswith(name)}
        if len(found) > 1:
            raise UsageError(f"{name!r} fits several models: {', '.join(sorted(found))}.")
        if not found:
            known = ", ".join([*(row.name for row in aliases), *models][:8]) or "none"
            raise NotFoundError(
                f"No model {name!r} in {self.paths.root}. Known: {known}.",
                go_on="python fleet.py registry list",
            )
        return models[found.pop()]

    def folder(self, row: ModelRow) -> Path:
        """Where the model lies: manifest.json and model/."""
        return self.paths.model(row.digest)

    def manifest(self, row: ModelRow) -> Manifest:
        """The model's manifest, as it was registered.

        Raises:
            StorageError: it cannot be read, or was changed since.
        """
        manifest = read_manifest(self.folder(row))
        if manifest.id != row.id or manifest.digest != row.digest:
            raise StorageError(f"{self.folder(row)}: is not the manifest of {row.id}.")
        return manifest

    def problems(self, row: ModelRow) -> list[str]:
        """What is wrong with a model's folder; empty where every byte is as registered."""
        found = problems_of(self.folder(row), manifest_sha256=row.manifest_sha256)
        if not found and read_manifest(self.folder(row)).digest != row.digest:
            found.append(f"{self.folder(row)}: its content is not that of {row.id}.")
        return found

    def decisions(self) -> list[Decision]:
        """The whole chain, verified.

        Raises:
            LedgerError: a link was changed, removed or reordered.
        """
        return chain.read(self._cx.execute("SELECT * FROM decisions ORDER BY seq").fetchall())
