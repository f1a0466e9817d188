"""What training checkpoints cost: CPU seconds of a seed's training with and without, interleaved.

    python benchmarks/checkpoint_cost.py --missions E,D --rounds 3

Trains the first pack of each mission (laptop profile, or another) in turns, with a checkpoint every
5 s and with none. Beside the difference, which drowns in noise where it is small, stands what the
writing itself took, measured around each write.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from missions.checkpoints import EVERY_S, PackCheckpoints
from missions.local import LocalContext, packs_of
from missions.protocol import Pack
from missions.registry import load_mission, resolve


def train_once(mission_id: str, profile: str, arms: int, every_s: float) -> tuple[float, ...]:
    """(CPU s, CPU s of writing, wall s of writing, writes, MiB left) of one pack's training."""
    mission, spec = load_mission(mission_id), resolve(mission_id, profile=profile)
    with tempfile.TemporaryDirectory() as folder:
        ctx = LocalContext(spec, Path(folder), torch.device("cpu"))
        mission.prepare(spec, ctx)
        ctx.base()
        pack = packs_of(spec)[0]
        kept = PackCheckpoints(
            Path(folder) / "checkpoints",
            pack=pack.name,
            keys={run.name: run.name for run in pack.runs},
            binding={},
            quarantine=Path(folder) / "quarantine",
            every_s=every_s,
            alarm=lambda name, text: sys.stderr.write(f"{name}: {text}\n"),
        )
        ctx.enter_pack(kept if every_s else None)
        started = time.process_time()
        mission.train(spec, Pack(name=pack.name, runs=pack.runs[:arms]), ctx)
        cpu_s = time.process_time() - started
        files = (Path(folder) / "checkpoints").rglob("*")
        size = sum(path.stat().st_size for path in files if path.is_file())
        return cpu_s, kept.cost[1], kept.cost[0], float(kept.writes), size / 2**20


def main() -> None:
    """Entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--missions", default="A,B,C,D,E")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--arms", type=int, default=1, help="arms of the pack that are trained")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(
        "| mission | without, CPU s | with, CPU s | ratio | writing, CPU s | of training % "
        "| writing, wall s | writes | MiB |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    for mission in options.missions.split(","):
        rounds = []
        for number in range(options.rounds):
            # In turns, and the first one changes: what warms up or slows down meets both.
            order = (0.0, EVERY_S) if number % 2 else (EVERY_S, 0.0)
            found = {
                every_s: train_once(mission, options.profile, options.arms, every_s)
                for every_s in order
            }
            rounds.append((found[0.0], found[EVERY_S]))
        plain = statistics.median(a[0] for a, _ in rounds)
        kept = [statistics.median(b[i] for _, b in rounds) for i in range(5)]
        ratio = statistics.median(b[0] / a[0] for a, b in rounds)
        sys.stdout.write(
            f"| {mission} | {plain:.2f} | {kept[0]:.2f} | {ratio:.3f} | {kept[1]:.3f} "
            f"| {100 * kept[1] / kept[0]:.2f} | {kept[2]:.3f} | {kept[3]:.0f} | {kept[4]:.1f} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
