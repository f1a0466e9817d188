"""The bundled base model as files: where it lies, what its manifest says, whether they agree.

Reads JSON and hashes only; it loads no weights and imports no model library.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bem.errors import first_line
from missions.errors import MissionError

_FOLDER = Path(__file__).resolve().parent
WEIGHTS = _FOLDER / "weights"
MANIFEST = _FOLDER / "manifest.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SkillFigure(_Strict):
    """Exact match of one skill with its Wilson 95 % interval."""

    exact_match: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    num_items: int = Field(ge=1)


class BaseSkills(_Strict):
    """The manifest of the bundled base: files, recipe, figures."""

    name: str
    files: dict[str, str]
    """File name in the weights folder -> sha256."""
    num_parameters: int = Field(ge=1)
    recipe: dict[str, int | float]
    """Fields of `train.Recipe`, the CPU seconds and steps of the run."""
    versions: dict[str, str]
    split: str
    """Split of the items that were measured; none of its names was trained on."""
    skills: dict[str, SkillFigure]

    @classmethod
    def read(cls, path: Path = MANIFEST) -> BaseSkills:
        """Parse a manifest; MissionError names the file and what is wrong."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise MissionError(f"{path}: {first_line(error)}") from error

    def exact_match(self, skill: str) -> float:
        """The figure of one skill; ValueError names the known ones."""
        if skill not in self.skills:
            raise ValueError(f"unknown skill {skill!r}; known: {', '.join(self.skills)}")
        return self.skills[skill].exact_match


def bundled_path() -> Path:
    """Folder of the bundled base model, for `load_base`."""
    return WEIGHTS


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digests(folder: Path = WEIGHTS) -> dict[str, str]:
    """File name -> sha256 of every file in a weights folder."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}


def verify_bundle(folder: Path = WEIGHTS, manifest: Path = MANIFEST) -> None:
    """Raise MissionError if a file of the bundle is missing, foreign or altered."""
    wanted, found = BaseSkills.read(manifest).files, digests(folder)
    wrong = sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )
    if wrong:
        raise MissionError(f"{folder}: {', '.join(wrong)} differ from {manifest.name}.")


def write_manifest(skills: BaseSkills, path: Path = MANIFEST) -> None:
    """Write a manifest as indented JSON."""
    path.write_text(json.dumps(skills.model_dump(), indent=1) + "\n", encoding="utf-8")
