"""Trains the first pack of a mission's smoke profile, all of it or until it is told to stop.

    python resumed_run.py MISSION FOLDER

goes on in a process of its own with what FOLDER holds, and writes `outcome.json`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bem.errors import TrainingStopped
from missions.checkpoints import PackCheckpoints
from missions.local import LocalContext, packs_of
from missions.protocol import Pack
from missions.registry import load_mission, resolve
from stats.plain import to_plain

SMALLER = {"E": ("params.evaluation.lengths=[512,8192]",)}
"""What a smoke profile need not do here."""


class StoppingContext(LocalContext):
    """Says stop after a number of questions."""

    left: int | None = None

    def should_stop(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


@dataclass(kw_only=True)
class Outcome:
    """What came of it."""

    stopped: bool = False
    arms: dict[str, Any] = field(default_factory=dict)
    """By arm: sha256 of every file of its artifact, its cost, and the scores of the first arm."""
    told: list[str] = field(default_factory=list)
    """What the checkpoints said."""


def train_first_pack(
    mission_id: str, folder: Path, *, stop_after: int | None = None, arms: Sequence[str] = ()
) -> Outcome:
    """`arms`: only these of the pack, as after a failure of one."""
    mission = load_mission(mission_id)
    spec = resolve(mission_id, profile="smoke", overrides=SMALLER.get(mission_id, ()))
    ctx = StoppingContext(spec, folder, torch.device("cpu"))
    ctx.freeze()
    data = mission.prepare(spec, ctx).data_digest
    pack = packs_of(spec)[0]
    outcome = Outcome()
    ctx.enter_pack(
        PackCheckpoints(
            folder / "checkpoints",
            pack=pack.name,
            keys={run.name: f"{spec.digest()} {run.name} {data}" for run in pack.runs},
            binding={},
            quarantine=folder / "quarantine",
            every_s=1e9,
            alarm=lambda name, text: outcome.told.append(f"alarm {name}: {text}"),
            resumed=lambda name, text: outcome.told.append(f"{name}: {text}"),
        )
    )
    ctx.left = stop_after
    runs = tuple(run for run in pack.runs if not arms or run.arm in arms)
    try:
        artifacts = mission.train(spec, Pack(name=pack.name, runs=runs), ctx)
    except TrainingStopped:
        outcome.stopped = True
        return outcome
    ctx.left = None
    for run in runs:
        path = artifacts[run].path
        outcome.arms[run.arm] = {
            "files": {
                str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in sorted(path.rglob("*"))
                if file.is_file()
            },
            "cost": to_plain(artifacts[run].cost),
        }
    if not arms:
        scores = mission.evaluate(spec, runs[0], artifacts[runs[0]], "test", ctx)
        outcome.arms[runs[0].arm]["scores"] = scores.digest()
    return outcome


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    mission, folder = sys.argv[1], Path(sys.argv[2])
    outcome = train_first_pack(mission, folder)
    document = {"arms": outcome.arms, "told": outcome.told}
    (folder / "outcome.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main()
