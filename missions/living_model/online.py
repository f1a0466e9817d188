"""What the served living model learns with: settings, the replay's first items, the canary suite.

Three JSON files beside the adapter. Whoever serves it runs `bem.online` on them in shadow mode; the
start adapter alone is served where nobody does. It knows no server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from bem.checkpoint import write_durably
from bem.data import Example
from bem.online import CanaryConfig, LearnerConfig
from missions.living_model.data import Dataset, Item
from missions.living_model.params import ArmParams, LivingModelParams
from missions.protocol import Run
from missions.spec import MissionSpec

ONLINE = "online"
"""Folder inside the exported model."""
SETTINGS, INITIAL, CANARY = "settings.json", "initial.json", "canary.json"


class OnlineSettings(BaseModel):
    """settings.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    update: str
    """controller or all: which parameters of the adapter learn."""
    learner: LearnerConfig
    canary: CanaryConfig
    prompts_per_update: int
    seed: int
    """Of the run that was promoted; the learner's draws start from it."""


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    prompt: str
    target: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Online:
    """The three files, read."""

    settings: OnlineSettings
    initial: tuple[Example, ...]
    canary: tuple[Example, ...]


def read_online(folder: Path) -> Online:
    """What `write_online` wrote.

    Raises:
        ValueError: a file does not parse (pydantic's).
        OSError: one is missing.
    """
    return Online(
        settings=OnlineSettings.model_validate_json((folder / SETTINGS).read_bytes()),
        initial=_examples(folder / INITIAL),
        canary=_examples(folder / CANARY),
    )


def write_online(spec: MissionSpec, run: Run, dataset: Dataset, folder: Path) -> None:
    """Writes the three files; items as {id, prompt, target}."""
    params = LivingModelParams.model_validate(spec.params)
    arm = ArmParams.model_validate(spec.arms[run.arm].params)
    settings = OnlineSettings(
        update=arm.update,
        learner=params.learner.model_copy(update={"lr": arm.lr}),
        canary=params.canary,
        prompts_per_update=params.stream.prompts_per_update,
        seed=run.seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / SETTINGS, f"{settings.model_dump_json(indent=1)}\n".encode())
    write_durably(folder / INITIAL, _items(dataset.train[: params.initial_replay]))
    write_durably(folder / CANARY, _items(dataset.canary))


def _items(items: Sequence[Item]) -> bytes:
    plain = [{"id": item.id, "prompt": item.prompt, "target": item.target} for item in items]
    return (json.dumps(plain) + "\n").encode()


def _examples(path: Path) -> tuple[Example, ...]:
    shown = TypeAdapter(list[_Shown]).validate_json(path.read_bytes())
    return tuple(
        Example(prompt=one.prompt, target=one.target, id=one.id, cluster=ONLINE) for one in shown
    )
