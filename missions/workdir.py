"""The part of a mission's context that is a folder, a device and the base, loaded once.

Knows no run, no log and no lock: those differ between one process and a worker of the fleet.
"""

from __future__ import annotations

import shutil
from abc import ABC
from pathlib import Path

import torch

from bem.base import BaseModel as FrozenBase
from bem.base import load_base
from bem.training_checkpoint import StageCheckpoints
from missions.base_model import bundled_path
from missions.checkpoints import PackCheckpoints
from missions.protocol import Context, Run
from missions.spec import MissionSpec


class WorkdirContext(Context, ABC):
    """Context of one mission that keeps its files in one folder."""

    def __init__(self, spec: MissionSpec, workdir: Path, device: torch.device) -> None:
        self._spec = spec
        self._workdir = workdir
        self._device = device
        self._base: FrozenBase | None = None
        self._pack: PackCheckpoints | None = None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def data_dir(self) -> Path:
        path = self._workdir / "data"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def enter_pack(self, checkpoints: PackCheckpoints | None) -> None:
        """From now on stages are those of another pack; None keeps no checkpoints."""
        self._pack = checkpoints

    def checkpoints(self, stage: str, run: Run | None = None) -> StageCheckpoints | None:
        return None if self._pack is None else self._pack.stage(stage, run)

    def artifact_dir(self, run: Run) -> Path:
        path = self._workdir / "artifacts" / run.name
        if path.exists():  # of an attempt that did not come to its end
            shutil.rmtree(path)
        path.mkdir(parents=True)
        return path

    def base(self) -> FrozenBase:
        if self._base is None:
            self._base = load_base(base_reference(self._spec), device=self._device)
        return self._base


def base_reference(spec: MissionSpec) -> str:
    """Folder or hub id of the specification's base model."""
    return str(bundled_path()) if spec.base_model == "bundled" else spec.base_model
