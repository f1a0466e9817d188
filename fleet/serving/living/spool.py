"""Feedback that waits for the learner of its line: files, so that every process can hand some in.

    <registry>/online/<line>/waiting/<time>-<unique>.json     oldest first
    <registry>/online/<line>/status.json                      what the learner last told of itself

Any process puts; the one that holds the line's learner lock takes. A file appears by a rename and
is removed when it is taken. What waits outlives its processes, but not the loss of power. Knows no
learner.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bem.data import Encoded

LOG = logging.getLogger("fleet.serving")


class _Feedback(BaseModel):
    """One file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    """Digest of the base whose tokens these are."""
    id: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


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
        """Adds one; how many wait now, or None where there is no room."""
        self.make()
        waiting = len(self)
        if waiting >= self._most:
            return None
        kept = _Feedback(
            base=self._base, id=item.id, prompt_ids=item.prompt_ids, target_ids=item.target_ids
        )
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        _replace(self._waiting / name, kept.model_dump_json())
        return waiting + 1

    def take(self, size: int) -> list[Encoded]:
        """The oldest `size`, removed; none of them where fewer wait."""
        names = self._names()
        if len(names) < size:
            return []
        taken = []
        for name in names[:size]:
            item = self._read(self._waiting / name)
            if item is not None:
                taken.append(item)
        return taken

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
        _replace(self.folder / "status.json", json.dumps({"line": self.line, **status}))

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
            kept = None
        path.unlink()
        if kept is not None and kept.base != self._base:
            LOG.warning("feedback %s is left out: it was given over another base", path)
            kept = None
        if kept is None:
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
        status = json.loads(path.read_text(encoding="utf-8"))
        found[str(status.pop("line"))] = status
    return found


def _replace(path: Path, content: str) -> None:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.write_text(content, encoding="utf-8")
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
