"""Which model a request is answered by: names to ids, a canary's share by a hash. Pure.

A name is an id, an alias (`bundled:A@champion`), a line (`bundled:A`) or a mission (`A`). A line
or mission means its champion; where it has a canary, a share of the request keys means the canary.
The share of keys that a canary has grows without moving any other: who had the canary at 5 % has it
at 20 %. An id is pinned at admission and holds for the whole answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

BASE = "base"
"""The name of the base without any adapter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What a name means for one request."""

    model: str
    """The id."""
    line: str
    role: str
    """champion, canary, previous, or id where the request named one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Aliases at one moment."""

    lines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Line -> alias -> id."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Id -> line, of all that is served."""
    canary_share: float = 0.0

    def resolve(self, name: str, key: str) -> Resolved | None:
        """The id for this name and request key; None: no such model is served."""
        if name in self.ids:
            return Resolved(model=name, line=self.ids[name], role="id")
        line, alias = self._alias(name, key)
        model = self.lines.get(line, {}).get(alias)
        if model is None or model not in self.ids:
            return None
        return Resolved(model=model, line=line, role=alias)

    def meant(self, name: str, key: str) -> str:
        """The id that an alias points at, served or not; another name stands for itself."""
        line, alias = self._alias(name, key)
        return self.lines.get(line, {}).get(alias, name)

    def _alias(self, name: str, key: str) -> tuple[str, str]:
        """Line and alias of a name for this key."""
        line, _, alias = name.partition("@")
        line = self._line(line)
        aliases = self.lines.get(line, {})
        if not alias:
            alias = "champion"
            # A canary that could not be loaded takes no traffic away from the champion.
            if aliases.get("canary") in self.ids and place(line, key) < self.canary_share:
                alias = "canary"
        return line, alias

    def names(self) -> list[str]:
        """Every name that means something, ids last."""
        named = [
            name
            for line, aliases in sorted(self.lines.items())
            for name in (line, *(f"{line}@{alias}" for alias in aliases))
        ]
        served = [name for name in named if self.resolve(name, "") is not None]
        return [*served, *sorted(self.ids)]

    def _line(self, name: str) -> str:
        if name in self.lines:
            return name
        found = [line for line in self.lines if line.rpartition(":")[2] == name]
        return found[0] if len(found) == 1 else name


def place(line: str, key: str) -> float:
    """Where a key stands in a line's traffic, in [0, 1): the same on every machine, for ever."""
    digest = hashlib.sha256(f"{line}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
