"""An arm as a model to serve: what a mission writes when it was promoted.

A mission fills one folder with safetensors and JSON and says what kind of model lies there. Four
kinds, each with its own way to be served:

    adapter   `BEMModel.save_pretrained`: adapters over a base, each row at its own strength
    planner   the same with skills, a macro-policy and a retrieval bundle (mission A)
    overlay   the same with a skill, a safety branch, its value head and knob (mission C)
    memory    a `bem.memory` checkpoint, a model without a base (mission E)

It knows neither the registry nor what serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from bem.base import BaseModel as FrozenBase
from bem.checkpoint import write_durably
from bem.model import BEMConfig, BEMModel

Kind = Literal["adapter", "planner", "overlay", "memory"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """What `Mission.export` wrote."""

    kind: Kind
    base_model: str | None
    """Reference of the base as the mission file gives it; None: the model needs no base."""
    base_digest: str | None
    """`bem.base.BaseModel.digest` of that base."""
    serving: Mapping[str, JsonValue] = field(default_factory=dict)
    """What a server must know beside the files."""
    parents: tuple[str, ...] = ()
    """sha256 of weights that it was made from and that are not in the folder."""


def write_adapters(
    base: FrozenBase,
    reference: str,
    adapters: Mapping[str, Path],
    folder: Path,
    *,
    active: Sequence[str] | None = None,
) -> None:
    """Writes saved adapters as one `BEMModel` folder.

    Args:
        reference: what the folder calls its base. For the bundled base that is the word `bundled`,
            so that the folder's content is the same on every machine.
        adapters: name -> folder of the saved adapter.
        active: which of them act when the model is loaded; None: all.
    """
    with BEMModel(BEMConfig(base=reference, adapters={}), base=base) as model:
        for name, source in adapters.items():
            model.load_adapter(name, source)
        if active is not None:
            model.use(*active)
        model.save_pretrained(folder)


def copy_file(source: Path, target: Path) -> None:
    """Copies one file durably."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_durably(target, source.read_bytes())
