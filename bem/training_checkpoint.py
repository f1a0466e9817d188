"""Checkpoints of a training in progress: written so that a crash leaves a whole one, or none.

    <folder>/step_00000120/{tensors.safetensors, state.json, manifest.json}

A checkpoint is written in a folder beside its place: each file flushed to disk, manifest last, then
the folder renamed and its parent flushed. The last two are kept. Only what verifies is used: a
checkpoint that is truncated, changed, without a manifest, of another training, of another torch or
with a value that is not finite is moved to quarantine, the alarm is told why, and the one before is
used. Only safetensors and JSON are read. It knows neither models nor training loops.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bem.checkpoint import MANIFEST, sync_folder
from bem.errors import CheckpointError
from bem.state_tree import join, split

TENSORS = "tensors.safetensors"
STATE = "state.json"
KEEP = 2
"""Checkpoints of a stage that stay on disk."""
LARGEST_SHARE = 0.05
"""Where a checkpoint takes long to write, the interval grows so that they take no more of the time
than this."""
_WRITING = ".writing-"
_LIBRARIES = ("torch", "safetensors")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size_bytes: int


class _Manifest(BaseModel):
    """What stands beside the files; all but `files` and `versions` stands in the state too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    key: str
    step: int
    finished: bool
    files: dict[str, _File]
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A verified checkpoint."""

    step: int
    """Steps that were done."""
    finished: bool
    """Whether the stage had come to its end."""
    state: dict[str, Any]
    """The tree that was saved."""


class StageCheckpoints:
    """The checkpoints of one training stage of one run.

    Args:
        folder: of this stage alone; made when there is something to write.
        key: what the stage's outcome depends on. A checkpoint with another key is never used.
        every_s: seconds between two checkpoints. A stage's end is always written.
        quarantine: where bad checkpoints are moved.
        alarm: told in a sentence of each checkpoint that had to be put aside.
        resumed: told the step from which a training goes on.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: str,
        every_s: float,
        quarantine: Path,
        alarm: Callable[[str], None],
        resumed: Callable[[Snapshot], None] = lambda snapshot: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._key = key
        self._every_s = every_s
        self._quarantine = quarantine
        self._alarm = alarm
        self._resumed = resumed
        self._clock = clock
        self._last_at = clock()
        self._last_step: tuple[int, bool] | None = None
        self._took_s = 0.0
        self.wall_s = 0.0
        """Spent writing, so far."""
        self.cpu_s = 0.0
        self.writes = 0

    def newest(self) -> Snapshot | None:
        """The newest checkpoint that verifies; what does not is put aside on the way."""
        if not self._folder.is_dir():
            return None
        for left in self._folder.glob(f"{_WRITING}*"):  # a writer that was killed, nothing is lost
            shutil.rmtree(left, ignore_errors=True)
        for path in reversed(self._written()):
            try:
                snapshot = self._verified(path)
            except CheckpointError as error:
                self._put_aside(path, str(error))
                continue
            self._last_step = (snapshot.step, snapshot.finished)
            self._resumed(snapshot)
            return snapshot
        return None

    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        wait_s = max(self._every_s, self._took_s / LARGEST_SHARE)
        return self._clock() - self._last_at >= wait_s

    def save(self, step: int, state: Mapping[str, Any], *, finished: bool = False) -> None:
        """Writes the state after `step` steps durably.

        Raises:
            CheckpointError: a tensor is not finite; nothing is written.
        """
        if self._last_step == (step, finished):
            return
        wall, cpu = time.monotonic(), time.process_time()
        tensors, plain = require_finite_state(step, state)
        head = {"key": self._key, "step": step, "finished": finished}
        content = {
            TENSORS: save_tensors(tensors),
            STATE: json.dumps({**head, "state": plain}, allow_nan=False).encode(),
        }
        manifest = _Manifest(
            key=self._key,
            step=step,
            finished=finished,
            files={name: _described(data) for name, data in content.items()},
            versions={name: version(name) for name in _LIBRARIES},
        )
        content[MANIFEST] = (manifest.model_dump_json(indent=1) + "\n").encode()
        self._write(step, content)
        self._last_step, self._last_at = (step, finished), self._clock()
        for old in self._written()[:-KEEP]:
            shutil.rmtree(old)
        self._took_s = time.monotonic() - wall
        self.wall_s += self._took_s
        self.cpu_s += time.process_time() - cpu
        self.writes += 1

    def _write(self, step: int, content: Mapping[str, bytes]) -> None:
        target = self._folder / f"step_{step:08d}"
        beside = self._folder / f"{_WRITING}{target.name}-{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, data in content.items():  # the manifest is the last of them
            with (beside / name).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        sync_folder(beside)
        if target.exists():  # the same step of a training that was started again
            shutil.rmtree(target)
        beside.rename(target)
        sync_folder(self._folder)

    def _written(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("step_*") if path.is_dir())

    def _verified(self, path: Path) -> Snapshot:
        try:
            manifest = _Manifest.model_validate_json((path / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"no {MANIFEST}") from None
        except ValidationError as error:
            raise CheckpointError(f"{MANIFEST}: {error.errors()[0]['msg']}") from None
        if manifest.key != self._key:
            raise CheckpointError(
                f"it belongs to another training: key {manifest.key[:12]}, this one is "
                f"{self._key[:12]}"
            )
        here = version("torch")
        if manifest.versions.get("torch") != here:
            raise CheckpointError(
                f"written by torch {manifest.versions.get('torch')}, this is {here}: the same bits "
                "could not be promised"
            )
        content = {name: self._content(path / name, manifest) for name in (TENSORS, STATE)}
        try:
            tensors = load_tensors(content[TENSORS])
            document = json.loads(content[STATE])
            state = join(tensors, document["state"])
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"it cannot be read: {error}") from None
        head = (document.get("key"), document.get("step"), document.get("finished"))
        if head != (manifest.key, manifest.step, manifest.finished):
            raise CheckpointError(f"{MANIFEST} and {STATE} disagree on key, step or end")
        _require_finite(tensors, path.name)
        return Snapshot(step=manifest.step, finished=manifest.finished, state=state)

    @staticmethod
    def _content(path: Path, manifest: _Manifest) -> bytes:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise CheckpointError(f"no {path.name}") from None
        said = manifest.files.get(path.name)
        found = _described(data)
        if said != found:
            expected = f"{said.sha256[:12]}, {said.size_bytes} bytes" if said else "nothing"
            raise CheckpointError(
                f"{path.name} does not verify: sha256 {found.sha256[:12]}, {found.size_bytes} "
                f"bytes; {MANIFEST} says {expected}"
            )
        return data

    def _put_aside(self, path: Path, reason: str) -> None:
        """Out of the way, but kept: somebody will want to see why."""
        self._quarantine.mkdir(parents=True, exist_ok=True)
        target = self._quarantine / f"{path.parent.name}-{path.name}-{uuid.uuid4().hex[:8]}"
        path.rename(target)
        sync_folder(self._quarantine)
        sync_folder(self._folder)
        self._alarm(f"checkpoint {path} put aside to {target}: {reason}")


def require_finite_state(step: int, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """A state as (tensors, the rest as JSON holds it).

    Raises:
        CheckpointError: a tensor is not finite.
    """
    tensors, plain = split(dict(state))
    _require_finite(tensors, f"step {step}")
    return tensors, plain


def _described(data: bytes) -> _File:
    return _File(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: tensor '{name}' is not finite")
