"""What the fleet lends to a mission inside a worker: folders, the base, logging, the stop flag.

Implements `missions.protocol.Context`. Knows the ledger only through its port, and Ray not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bem.base import BaseModel as FrozenBase
from bem.distributed import Share
from fleet.ledger.records import Point
from fleet.monitor.scalars import ScalarBoard
from missions.protocol import Run
from missions.spec import MissionSpec
from missions.split_lock import SplitLock
from missions.workdir import WorkdirContext


class WorkerContext(WorkdirContext):
    """Context of one mission in one worker."""

    def __init__(
        self,
        spec: MissionSpec,
        workdir: Path,
        *,
        board: ScalarBoard,
        lock: SplitLock,
        device: torch.device,
        stop: threading.Event,
        timed: Callable[[str, str], Any],
        share: Share | None = None,
    ) -> None:
        super().__init__(spec, workdir, device)
        self._board = board
        self._lock = lock
        self._stop = stop
        self._timed = timed
        self._share = share
        self._points: list[Point] = []
        self._guard = threading.Lock()

    def base(self) -> FrozenBase:
        if self._base is not None:
            return self._base
        with self._timed("base", self._spec.base_model):
            base = super().base()
        if self._share is not None:
            self._share.shard(base)
        return base

    @property
    def share(self) -> Share | None:
        return self._share

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self._board.add(run, step, metrics)
        points = [
            Point(run=run.name, step=step, name=name, value=float(value))
            for name, value in metrics.items()
        ]
        with self._guard:
            self._points.extend(points)

    @property
    def lock(self) -> SplitLock:
        return self._lock

    def should_stop(self) -> bool:
        if self._share is not None and self._share.any(self._stop.is_set()):
            # One is told a moment before the others; all leave at the same step.
            self._stop.set()
        return self._stop.is_set()

    def take_points(self) -> list[Point]:
        """The scalars logged since the last call; the heartbeat sends them in one batch."""
        with self._guard:
            points, self._points = self._points, []
        return points
