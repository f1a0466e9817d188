"""What a registered model says of itself: `manifest.json`, and rows as readers see them. Data.

An id is `base:mission-arm@<12 hex>`; the hex digits are the first of the sha256 over line, arm,
kind, the base's digest, the serving facts and the sha256 of every file. Aliases belong to a line,
which is `base:mission`: each line has its own champion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from fleet.keys import canonical_digest

MANIFEST = "manifest.json"
MODEL = "model"
"""Folder of the weights inside a model's folder."""
Kind = Literal["adapter", "planner", "overlay", "memory"]
Alias = Literal["champion", "canary", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "canary", "previous")
ONLINE_CANARY = "online canary"
"""Verdict of a model that an online learner made: it passed the learner's canary gate, no mission
judged it. A reason it was forced with is inherited from the model that learning began from."""
NO_BASE = "scratch"
"""Stands for the base in the id of a model that has none."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._-]+")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFacts(_Strict):
    """One file of the folder."""

    sha256: str = Field(pattern=_SHA256.pattern)
    size_bytes: int = Field(ge=0)


class BaseReference(_Strict):
    """The base model that the weights lie over."""

    ref: str
    """`bundled`, a hub id or a folder, as the mission file names it."""
    digest: str
    """`bem.base.BaseModel.digest`: another base is refused."""


class SeedChoice(_Strict):
    """Which seed's artifact is served, by a rule that stood before any score did."""

    rule: str
    figure: str
    """Figure of the artifacts that the rule looks at; recorded in training, never of test."""
    values: dict[str, float | None]
    """Seed -> value."""
    seed: int


class GateFigure(_Strict):
    """One gate of the verdict."""

    gate: str
    metric: str
    decision: str
    estimate: float | None
    low: float | None
    high: float | None
    p_value: float | None


class Lineage(_Strict):
    """Where the model comes from."""

    run_id: str
    profile: str
    mission_hash: str
    arm_hash: str
    code_version: str
    commit: str
    dirty: bool
    data_digest: str
    scores_digest: str
    seeds: tuple[int, ...]
    """Seeds of the comparison."""
    choice: SeedChoice
    verdict: str
    reasons: tuple[str, ...]
    verdict_link: str
    """Hash of the ledger's decision that holds the verdict."""
    figures: tuple[GateFigure, ...]
    parents: tuple[str, ...]
    """Ids, or sha256 of weights, that it was made from."""
    forced: str | None
    """Why it was promoted without a PROMOTE verdict; null where it has one."""


class Manifest(_Strict):
    """manifest.json: written last, so a folder that has one is whole."""

    format: Literal[1] = 1
    id: str
    kind: Kind
    mission: str
    arm: str
    base_model: BaseReference | None
    """Null: the model is complete without a base."""
    serving: dict[str, JsonValue]
    """What a server must know beside the files."""
    files: dict[str, FileFacts]
    """By path within the folder."""
    lineage: Lineage
    versions: dict[str, str]
    created: str

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileFacts]) -> dict[str, FileFacts]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or path.parts[:1] != (MODEL,):
                raise ValueError(f"path {name!r} is not below {MODEL}/")
            if path.suffix not in (".json", ".safetensors"):
                raise ValueError(f"path {name!r}: only .safetensors and .json are registered")
        return files

    @property
    def digest(self) -> str:
        """sha256 of what the model is: not of where it came from."""
        return model_digest(
            line_of(self.base_model, self.mission),
            self.arm,
            self.kind,
            self.base_model,
            self.serving,
            self.files,
        )

    @property
    def line(self) -> str:
        """`base:mission`."""
        return line_of(self.base_model, self.mission)


def model_digest(
    line: str,
    arm: str,
    kind: str,
    base: BaseReference | None,
    serving: dict[str, JsonValue],
    files: dict[str, FileFacts],
) -> str:
    """sha256 over line, arm, kind, base, serving facts and the content of every file."""
    return canonical_digest(
        {
            "line": line,
            "arm": arm,
            "kind": kind,
            "base": None if base is None else base.digest,
            "serving": serving,
            "files": {name: facts.sha256 for name, facts in files.items()},
        }
    )


def line_of(base: BaseReference | None, mission: str) -> str:
    """`base:mission`; a folder is named by its last part, a hub id keeps its owner."""
    name = NO_BASE
    if base is not None:
        ref = base.ref.rstrip("/")
        name = ref.rsplit("/", 1)[-1] if ref.startswith(("/", ".", "~")) else ref
    return f"{_NOT_IN_AN_ID.sub('-', name)}:{mission}"


def model_id(base: BaseReference | None, mission: str, arm: str, digest: str) -> str:
    """`base:mission-arm@<12 hex>`."""
    return f"{line_of(base, mission)}-{_NOT_IN_AN_ID.sub('-', arm)}@{digest[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRow:
    """A registered model as a reader sees it."""

    id: str
    line: str
    digest: str
    kind: Kind
    mission: str
    arm: str
    base_model: str | None
    base_digest: str | None
    run_id: str
    verdict: str
    forced: str | None
    manifest_sha256: str
    size_bytes: int
    created_at: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasRow:
    """An alias of a line."""

    line: str
    alias: Alias
    model: str
    since: float

    @property
    def name(self) -> str:
        """`bundled:A@champion`: may stand wherever an id may."""
        return f"{self.line}@{self.alias}"
