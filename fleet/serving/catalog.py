"""The registry as a server sees it: what should be served now, where it lies. Reads only.

Served is what an alias points at: champion, canary and previous of every line. The interface
`Catalog` is all that a server needs, so that tests lend another. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fleet.errors import NotFoundError
from fleet.registry.folders import problems_of, read_manifest
from fleet.registry.reader import RegistryReader
from fleet.registry.records import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A model that should be served."""

    id: str
    line: str
    folder: Path
    """manifest.json and model/."""
    manifest_sha256: str | None
    created_s: float

    def verified(self) -> Manifest:
        """Its manifest, after every byte of the folder was compared.

        Raises:
            ValueError: says what is wrong.
        """
        problems = problems_of(self.folder, manifest_sha256=self.manifest_sha256)
        if problems:
            raise ValueError(problems[0])
        manifest = read_manifest(self.folder)
        if manifest.id != self.id:
            raise ValueError(f"{self.folder}: is {manifest.id}, not {self.id}.")
        return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The registry at one moment."""

    version: int
    entries: tuple[Entry, ...]
    lines: Mapping[str, Mapping[str, str]]


class Catalog(Protocol):
    """Where models come from."""

    def version(self) -> int:
        """Changes whenever `listing` would."""

    def listing(self) -> Listing:
        """What should be served."""


class RegistryCatalog:
    """The registry in a folder; one that is not there yet is empty."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def version(self) -> int:
        """Number of the newest decision; 0 where nothing was ever promoted."""
        try:
            with RegistryReader(self._root) as reader:
                return reader.version()
        except NotFoundError:
            return 0

    def listing(self) -> Listing:
        """Everything that an alias points at."""
        try:
            reader = RegistryReader(self._root)
        except NotFoundError:
            return Listing(version=0, entries=(), lines={})
        with reader:
            version = reader.version()
            lines: dict[str, dict[str, str]] = {}
            for row in reader.aliases():
                lines.setdefault(row.line, {})[row.alias] = row.model
            wanted = {model for aliases in lines.values() for model in aliases.values()}
            entries = tuple(
                Entry(
                    id=row.id,
                    line=row.line,
                    folder=reader.folder(row),
                    manifest_sha256=row.manifest_sha256,
                    created_s=row.created_at,
                )
                for row in reader.models()
                if row.id in wanted
            )
        return Listing(version=version, entries=entries, lines=lines)
