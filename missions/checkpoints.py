"""The training checkpoints of one pack: a store for every named stage, bound to its run's key.

    <folder>/<run, or "pack" for what arms share>/<stage>-<key>/step_.../

What a run's scores depend on stands in its key (mission, arm, seed, code, data), so a checkpoint is
found again by exactly the run that wrote it. A stage that arms of the pack share is bound to the
keys of all of them. Knows neither the ledger nor how a training loop saves.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bem.training_checkpoint import Snapshot, StageCheckpoints

if TYPE_CHECKING:
    from missions.protocol import Run

EVERY_S = 5.0
"""Seconds between checkpoints by default: what a killed worker loses at most of its training."""
SHARED = "pack"
_STAGE = re.compile(r"^[a-z][a-z0-9_]{0,39}$")


class PackCheckpoints:
    """Stores of the stages of one pack.

    Args:
        folder: of this pack alone.
        keys: the key of every run of the pack, by name, whether or not it is trained now.
        binding: what else must be the same for bits to be the same (code at hand, device).
        quarantine: where checkpoints that do not verify are moved.
        alarm: told (name of run or pack, sentence) of each of these.
        resumed: told (name, sentence) of each stage that goes on or is found finished.
    """

    def __init__(
        self,
        folder: Path,
        *,
        pack: str,
        keys: Mapping[str, str],
        binding: Mapping[str, str],
        quarantine: Path,
        every_s: float = EVERY_S,
        alarm: Callable[[str, str], None],
        resumed: Callable[[str, str], None] = lambda name, text: None,
    ) -> None:
        self._folder = folder
        self._pack = pack
        self._keys = dict(keys)
        self._binding = dict(binding)
        self._quarantine = quarantine
        self._every_s = every_s
        self._alarm = alarm
        self._resumed = resumed
        self._stages: dict[tuple[str, str], StageCheckpoints] = {}
        self._earlier: list[StageCheckpoints] = []

    def stage(self, name: str, run: Run | None = None) -> StageCheckpoints:
        """The store of a stage of one run, or of one that the pack's arms share.

        Raises:
            ValueError: a name that cannot be a folder's, or that was given to a stage before.
        """
        if not _STAGE.match(name):
            raise ValueError(f"Stage {name!r}: expected 1-40 of a-z, 0-9 and '_', a letter first.")
        whose = SHARED if run is None else run.name
        if (whose, name) in self._stages:
            raise ValueError(f"{self._pack}: two trainings of {whose} are called {name!r}.")
        keys = sorted(self._keys.values()) if run is None else [self._keys[run.name]]
        text = json.dumps([keys, name, sorted(self._binding.items())])
        key = hashlib.sha256(text.encode()).hexdigest()
        source = self._pack if run is None else run.name

        def tell(snapshot: Snapshot) -> None:
            what = "is found finished" if snapshot.finished else f"goes on at step {snapshot.step}"
            self._resumed(source, f"training stage {name} {what}")

        made = StageCheckpoints(
            self._folder / whose / f"{name}-{key[:16]}",
            key=key,
            every_s=self._every_s,
            quarantine=self._quarantine / whose,
            alarm=lambda text: self._alarm(source, text),
            resumed=tell,
        )
        self._stages[whose, name] = made
        return made

    def begin_again(self) -> None:
        """The pack's training starts anew in this process: its stages may be asked for again."""
        self._earlier += self._stages.values()
        self._stages.clear()

    def forget(self, run: str) -> None:
        """Removes what belongs to one run; it is done."""
        _remove(self._folder / run)

    def forget_all(self) -> None:
        """Removes everything; the pack is done."""
        _remove(self._folder)

    @property
    def cost(self) -> tuple[float, float]:
        """(wall, CPU) seconds that writing took."""
        stages = self._all()
        return sum(s.wall_s for s in stages), sum(s.cpu_s for s in stages)

    @property
    def writes(self) -> int:
        """Checkpoints written."""
        return sum(stage.writes for stage in self._all())

    def _all(self) -> list[StageCheckpoints]:
        return [*self._earlier, *self._stages.values()]


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
