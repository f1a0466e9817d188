"""Feedback that waits for the learner of its line: files, so that every process can hand some in.

    <registry>/online/<line>/waiting/<time>-<unique>.json     oldest first
    <registry>/online/<line>/aside/                           what learners failed at twice
    <registry>/online/<line>/status.json                      what the learner last told of itself

Any process puts; the one that holds the line's learner lock takes. A file appears by a rename, is
on disk before it counts as kept, and is removed once its learner says that it has learned from it:
what waits outlives its processes. Knows no learner.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bem.data import Encoded
from fleet.ledger.files import write_durably

LOG = logging.getLogger("fleet.serving")
_AGAIN = ".again.json"
"""Ends the name of a file that a learner has failed at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Feedback that still waits, to be learned from together."""

    items: tuple[Encoded, ...] = ()
    names: tuple[str, ...] = ()
    """Their files: for `done` or `failed`."""


class _Feedback(BaseModel):
    """One file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    """Digest of the base whose tokens these are."""
    id: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


class _Status(BaseModel):
    """What readers of status.json count on; the rest is passed on as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)

    line: str
    state: str


class Spool:
    """What waits for one line."""

    def __init__(self, registry: Path, line: str, *, base: str, most: int) -> None:
        """
        Args:
            base: digest of the base that the line lies over.
            most: how many may wait; several processes may exceed it by a few.
        """
        self.line = line
        self.folder = registry / "online" / re.sub(r"[^A-Za-z0-9._-]+", "-", line)
        self._waiting = self.folder / "waiting"
        self._base = base
        self._most = most

    @property
    def lock(self) -> Path:
        """Of the line's one learner: see `fleet.ledger.database.lock_for_writing`."""
        return self.folder / "learner"

    def make(self) -> None:
        """Makes the folders, for their user only: what people wrote stands in them."""
        for folder in (self.folder.parent, self.folder, self._waiting):
            folder.mkdir(mode=0o700, exist_ok=True)

    def put(self, item: Encoded) -> int | None:
        """Adds one; how many wait now, or None where there is no room.

        Raises:
            OSError, StorageError: it is not kept.
        """
        self.make()
        waiting = len(self)
        if waiting >= self._most:
            return None
        kept = _Feedback(
            base=self._base, id=item.id, prompt_ids=item.prompt_ids, target_ids=item.target_ids
        )
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        write_durably(self._waiting / name, kept.model_dump_json().encode())
        return waiting + 1

    def take(self, size: int) -> Batch:
        """The oldest `size`, which wait until `done` or `failed`; none where fewer wait. What can
        never be learned from is left out, and removed."""
        names = self._names()
        if len(names) < size:
            return Batch()
        read = {name: self._read(self._waiting / name) for name in names[:size]}
        for name in [name for name, item in read.items() if item is None]:
            (self._waiting / name).unlink(missing_ok=True)
        good = {name: item for name, item in read.items() if item is not None}
        return Batch(items=tuple(good.values()), names=tuple(good))

    def done(self, names: Sequence[str]) -> int:
        """These were learned from: removes them. May be asked again where it was cut short."""
        for name in names:
            (self._waiting / name).unlink(missing_ok=True)
        return len(names)

    def failed(self, names: Sequence[str]) -> None:
        """A learner failed at these: they are tried once more, then laid aside for a person, so
        that no feedback stops every learner of its line."""
        aside = self.folder / "aside"
        for name in names:
            path = self._waiting / name
            if not name.endswith(_AGAIN):
                path.rename(path.with_suffix(_AGAIN))
                continue
            aside.mkdir(mode=0o700, exist_ok=True)
            path.rename(aside / name)
            LOG.warning("feedback %s is laid aside: learners failed at it twice", aside / name)

    def clear(self) -> int:
        """Removes all that wait; how many."""
        names = self._names()
        for name in names:
            (self._waiting / name).unlink(missing_ok=True)
        return len(names)

    def __len__(self) -> int:
        return len(self._names())

    def tell(self, status: dict[str, Any]) -> None:
        """Keeps what the learner says of itself, for the other processes."""
        self.make()
        text = json.dumps({"line": self.line, **status})
        write_durably(self.folder / "status.json", text.encode())

    def _names(self) -> list[str]:
        try:
            found = os.listdir(self._waiting)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if name.endswith(".json") and name[0] != ".")

    def _read(self, path: Path) -> Encoded | None:
        try:
            kept = _Feedback.model_validate_json(path.read_bytes())
        except ValidationError as error:
            LOG.warning("feedback %s is left out: %s", path, error.errors()[0]["msg"])
            return None
        if kept.base != self._base:
            LOG.warning("feedback %s is left out: it was given over another base", path)
            return None
        return Encoded(
            prompt_ids=kept.prompt_ids,
            target_ids=kept.target_ids,
            id=kept.id,
            cluster="feedback",
        )


def told(registry: Path) -> dict[str, dict[str, Any]]:
    """Line -> what its learner last said of itself, in whatever process it was."""
    found = {}
    for path in sorted((registry / "online").glob("*/status.json")):
        try:
            status = _Status.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:  # one damaged file hides no other line
            reason = error if isinstance(error, OSError) else error.errors()[0]["msg"]
            LOG.warning("the status in %s is left out: %s", path, reason)
            continue
        found[status.line] = status.model_dump(exclude={"line"})
    return found
