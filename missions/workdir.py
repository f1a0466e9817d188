"""The part of a mission's context that is a folder, a device and the base, loaded once.

Knows no run, no log and no lock: those differ between one process and a worker of the fleet.
"""

from __future__ import annotations

from abc import ABC
from pathlib import Path

import torch

from bem.base import BaseModel as FrozenBase
from bem.base import load_base
from missions.base_model import bundled_path
from missions.protocol import Context
from missions.spec import MissionSpec


class WorkdirContext(Context, ABC):
    """Context of one mission that keeps its files in one folder."""

    def __init__(self, spec: MissionSpec, workdir: Path, device: torch.device) -> None:
        self._spec = spec
        self._workdir = workdir
        self._device = device
        self._base: FrozenBase | None = None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def data_dir(self) -> Path:
        path = self._workdir / "data"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def base(self) -> FrozenBase:
        if self._base is None:
            self._base = load_base(base_reference(self._spec), device=self._device)
        return self._base


def base_reference(spec: MissionSpec) -> str:
    """Folder or hub id of the specification's base model."""
    return str(bundled_path()) if spec.base_model == "bundled" else spec.base_model
