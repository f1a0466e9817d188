"""One thing that is wrong in a cluster file: where, what stands there, what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

MAX_SHOWN = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFinding:
    """One line of `doctor --cluster`."""

    file: str
    field: str
    """Path of the field, keys joined by dots."""
    value: str
    allowed: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.value}; allowed: {self.allowed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Collects findings of one file."""

    file: str
    found: list[ClusterFinding]

    def add(
        self,
        field: str,
        value: Any,
        allowed: str,
        *,
        level: Literal["error", "warning"] = "error",
    ) -> None:
        """Notes one finding."""
        self.found.append(
            ClusterFinding(
                file=self.file, field=field, value=_short(value), allowed=allowed, level=level
            )
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split()) or "(empty)"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
