"""TensorBoard scalars, one folder a run. Knows runs by name and nothing of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from missions.protocol import Run


class ScalarBoard:
    """Writes `<root>/<mission>/<arm>-s<seed>`; a run's file is opened at its first scalar."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._writers: dict[str, SummaryWriter] = {}

    def add(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the scalars of one step."""
        writer = self._writers.get(run.name)
        if writer is None:
            folder = self._root / run.mission / f"{run.arm}-s{run.seed}"
            writer = SummaryWriter(str(folder), max_queue=200, flush_secs=10)
            self._writers[run.name] = writer
        for name, value in metrics.items():
            writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Flushes and closes every open file."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
