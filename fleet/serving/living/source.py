"""What a learner begins from: the line's champion, or the canary that a learner put before.

After a restart the aliases say where learning had come to. A canary is continued only where its
ancestors lead to the present champion and nobody has withdrawn one of them. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import NotFoundError, StorageError
from fleet.registry.reader import RegistryReader
from fleet.registry.records import MODEL, ONLINE_CANARY, Manifest


class NotLivingError(NotFoundError):
    """The line's champion was not exported to learn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Aliases of the line as a learner knows them."""

    champion: str
    own_canary: str | None
    """The canary, where this line's learner put it there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A model to learn from."""

    line: str
    manifest: Manifest
    folder: Path
    """model/ of the registered model."""
    place: Place


def find_start(registry: Path, line: str) -> Start:
    """The model to begin from.

    Raises:
        NotLivingError: it does not learn online.
        StorageError: it does not verify.
    """
    with RegistryReader(registry) as reader:
        aliases = {str(row.alias): row.model for row in reader.aliases(line)}
        if "champion" not in aliases:
            raise NotLivingError(f"{line} has no champion.")
        champion = aliases["champion"]
        canary = aliases.get("canary")
        own = canary if canary is not None and _continues(reader, canary, champion) else None
        row = reader.resolve(own or champion)
        problems = reader.problems(row)
        if problems:
            raise StorageError(f"{row.id} does not verify: {problems[0]}")
        manifest = reader.manifest(row)
        if not is_living(manifest):
            raise NotLivingError(f"{row.id} was not exported with online: true.")
        return Start(
            line=line,
            manifest=manifest,
            folder=reader.folder(row) / MODEL,
            place=Place(champion=champion, own_canary=own),
        )


def is_living(manifest: Manifest) -> bool:
    """Whether the model was exported with what a learner needs."""
    return manifest.serving.get("online") is True


def read_aliases(registry: Path, line: str) -> tuple[int, dict[str, str]]:
    """The registry's version, and the aliases of a line."""
    with RegistryReader(registry) as reader:
        version = reader.version()
        return version, {str(row.alias): row.model for row in reader.aliases(line)}


def follow(place: Place, aliases: Mapping[str, str]) -> Place | None:
    """Where the learner stands after somebody else may have moved aliases; None: begin anew. Pure.

    A person who promotes the learner's canary agrees with it; who rolls back the champion, drops
    the canary or promotes another model does not.
    """
    champion, canary = aliases.get("champion"), aliases.get("canary")
    if champion == place.champion and place.own_canary in (None, canary):
        return place
    if champion is not None and champion == place.own_canary:
        return Place(champion=champion, own_canary=None)
    return None


def _continues(reader: RegistryReader, canary: str, champion: str) -> bool:
    models = {row.id: row for row in reader.models()}
    rejected = {
        link.body.get(key)
        for link in reader.decisions()
        if link.kind == "rollback"
        for key in ("withdrawn", "canary")
    }
    at = canary
    while at != champion:
        if at not in models or at in rejected or models[at].verdict != ONLINE_CANARY:
            return False
        at = reader.manifest(models[at]).lineage.parents[0]
    return True
