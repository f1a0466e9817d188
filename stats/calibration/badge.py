"""The badge: what a calibration found, and a digest of the code that it is about.

`badge.json` beside this file is the outcome of a real run of `python fleet.py calibrate`. It covers
the source files that a simulated verdict passes through, found by following imports; where one of
them has changed since, the badge is stale and a report says so. Knows files, no statistics.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stats.calibration.campaign import ALPHA, Figures, Q, Rate
from stats.errors import StatsError
from stats.plain import from_plain, to_plain

PACKAGE = Path(__file__).resolve().parents[1]
BADGE = Path(__file__).with_name("badge.json")
FORMAT = 1
_ROOTS = ("stats.calibration.campaign", "stats.calibration.regimes", "stats.gates.superiority")
"""Where the walk over imports begins; the simulation asks for this one gate kind."""
Word = Literal["calibrated", "stale", "failed", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Badge:
    """One calibration as it was run."""

    figures: Figures
    holds: bool
    """Whether every rate kept its nominal value within 3 Monte-Carlo standard errors."""
    source_digest: str
    """sha256 over the covered files."""
    source_files: tuple[str, ...]
    commit: str
    dirty: bool
    date: str
    command: str
    cpu_s: float
    versions: Mapping[str, str] = field(default_factory=dict)
    real: Mapping[str, Any] | None = None
    """The small A/A campaign through the fleet, where one was run; plain JSON data."""
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Badge:
        return from_plain(cls, data)

    def save(self, path: Path) -> None:
        """Writes the badge."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a report may say of the statistics that it rests on."""

    word: Word
    text: str
    """One sentence with the figures."""


def load_badge(path: Path = BADGE) -> Badge | None:
    """The badge that the package carries; None where there is none.

    Raises:
        StatsError: a file that is no badge of this format.
    """
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise StatsError(f"{path}: format {data['format']!r}; this program reads {FORMAT}.")
        return Badge.from_dict(data)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise StatsError(f"{path}: not a calibration badge: {error!r}.") from None


def standing(path: Path = BADGE) -> Standing:
    """Whether the statistics code of this moment is the code that was calibrated."""
    badge = load_badge(path)
    if badge is None:
        return Standing(word="missing", text="no A/A calibration was run (fleet.py calibrate)")
    text = _sentence(badge)
    if badge.source_digest != source_digest():
        return Standing(
            word="stale",
            text=f"stale: the statistics code changed since this A/A calibration. {text}",
        )
    if not badge.holds:
        return Standing(word="failed", text=f"A/A calibration did not hold. {text}")
    return Standing(word="calibrated", text=text)


def _sentence(badge: Badge) -> str:
    figures = badge.figures

    def show(rate: Rate) -> str:
        return f"{rate.value:.2%} +- {rate.error:.2%}"

    text = (
        f"identical arms promoted {show(figures.false_promotion)} (at most {ALPHA:.1%} one-sided, "
        f"+- Monte-Carlo standard error) over {figures.campaigns:,} simulated campaigns of "
        f"{len(figures.by_regime)} missions, {figures.seeds} seeds x {figures.items:,} items; "
        f"worst regime {max(item.rate.value for item in figures.by_regime):.2%}; "
        f"any promotion in a family of nulls {show(figures.family_of_nulls)} and false discovery "
        f"rate of mixed families {show(figures.false_discovery)} (nominal at most {Q:.0%})"
    )
    if badge.real is not None:
        text += f"; real A/A campaign: {badge.real['verdict']}"
    return f"{text}; {badge.date[:10]}, commit {badge.commit[:12] or 'unknown'}"


def source_files() -> tuple[Path, ...]:
    """Every module of `stats` that a simulated verdict passes through, by following imports."""
    seen: dict[str, Path] = {}
    waiting = list(_ROOTS)
    while waiting:
        name = waiting.pop()
        path = _path_of(name)
        if path is not None and name not in seen:
            seen[name] = path
            waiting += _imports(path)
    return tuple(sorted(seen.values()))


def source_digest() -> str:
    """sha256 over names and contents of the covered files."""
    sha = hashlib.sha256()
    for path in source_files():
        sha.update(path.relative_to(PACKAGE.parent).as_posix().encode() + b"\0")
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def _path_of(name: str) -> Path | None:
    """File of a module of `stats`; its front door only re-exports and stands apart."""
    if not name.startswith(f"{PACKAGE.name}."):
        return None
    base = PACKAGE.parent.joinpath(*name.split("."))
    if base.is_dir():
        return base / "__init__.py"
    path = base.with_suffix(".py")
    return path if path.is_file() else None


def _imports(path: Path) -> list[str]:
    """Modules that a file names in its imports, those inside functions as well."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found
