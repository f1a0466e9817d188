"""What an export may use of a launch: its folders and the base. No training, no test scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from missions.errors import LockedSplitError
from missions.protocol import Run
from missions.spec import MissionSpec
from missions.split_lock import SplitLock
from missions.workdir import WorkdirContext


class _Locked(SplitLock):
    """An export scores nothing."""

    def open_test(self, *, mission: str, arm: str, seed: int, arm_hash: str) -> None:
        raise LockedSplitError(f"Mission {mission}: an export does not read the test split.")


class ExportContext(WorkdirContext):
    """Context of `Mission.export`; loads the base on the CPU."""

    def __init__(self, spec: MissionSpec, workdir: Path) -> None:
        super().__init__(spec, workdir, torch.device("cpu"))

    def artifact_dir(self, run: Run) -> Path:
        raise LockedSplitError(f"{run.name}: an export makes no artifact.")

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        raise LockedSplitError(f"{run.name}: an export logs nothing.")

    @property
    def lock(self) -> SplitLock:
        return _Locked()

    def should_stop(self) -> bool:
        return False
