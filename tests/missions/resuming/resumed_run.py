"""Trains and scores the first pack of a mission's smoke profile, in a process of its own.

    python resumed_run.py MISSION FOLDER [--stop-after N] [--missing ARM,ARM]

Writes `outcome.json` (digests of everything that an artifact folder holds, of costs and of scores)
unless it was stopped: after N questions of training loops whether to stop, the answer is yes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch

from bem.errors import TrainingStopped
from missions.checkpoints import PackCheckpoints
from missions.local import LocalContext, packs_of
from missions.protocol import Pack
from missions.registry import load_mission, resolve
from stats.plain import to_plain

SMALLER = {
    # Long enough for every stage to be cut in the middle, and no longer.
    "E": ("params.evaluation.lengths=[512,8192]",),
}


class StoppingContext(LocalContext):
    """Says stop after a number of questions."""

    left: int | None = None

    def should_stop(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mission")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--missing", default="")
    parser.add_argument("--every", type=float, default=1e9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    mission = load_mission(options.mission)
    spec = resolve(options.mission, profile="smoke", overrides=SMALLER.get(options.mission, ()))
    ctx = StoppingContext(spec, options.folder, torch.device("cpu"))
    ctx.freeze()
    prepared = mission.prepare(spec, ctx)
    pack = packs_of(spec)[0]
    events: list[str] = []
    ctx.enter_pack(
        PackCheckpoints(
            options.folder / "checkpoints",
            pack=pack.name,
            keys={
                run.name: f"{spec.digest()} {run.name} {prepared.data_digest}" for run in pack.runs
            },
            binding={},
            quarantine=options.folder / "quarantine",
            every_s=options.every,
            alarm=lambda name, text: events.append(f"alarm {name}: {text}"),
            resumed=lambda name, text: events.append(f"{name}: {text}"),
        )
    )
    ctx.left = options.stop_after
    missing = [run for run in pack.runs if run.arm in options.missing.split(",")] or pack.runs
    outcome: dict[str, object] = {}
    try:
        artifacts = mission.train(spec, Pack(name=pack.name, runs=tuple(missing)), ctx)
    except TrainingStopped as stopped:
        outcome["stopped"] = str(stopped)
    else:
        ctx.left = None
        for run in missing:
            artifact = artifacts[run]
            files = {
                str(path.relative_to(artifact.path)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(artifact.path.rglob("*"))
                if path.is_file()
            }
            scores = mission.evaluate(spec, run, artifact, "test", ctx)
            outcome[run.arm] = {
                "files": files,
                "cost": to_plain(artifact.cost),
                "scores": scores.digest(),
            }
    outcome["events"] = events
    (options.folder / "outcome.json").write_text(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main()
