"""What a worker is told when it starts. Plain enough to cross processes; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleet.settings import CHECKPOINT_EVERY_S, RunPaths


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerJob:
    """One worker's order: `dataclasses.asdict` on the way out, `WorkerJob(**...)` on the way in."""

    mission: str
    job: str
    """Name of the worker group; attempts of one job follow each other."""
    root: str
    """The launch's folder; every worker must see it."""
    spec_json: str
    catalog: str
    """Module with `load_mission(id)`."""
    submitted_at: float
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    """Seconds between checkpoints of a training; 0 keeps none."""
    storage: str = ""
    """URI to which artifacts are copied; with it, nodes need not share the launch's folder."""

    @property
    def paths(self) -> RunPaths:
        return RunPaths(root=Path(self.root))
