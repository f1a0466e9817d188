"""Would packing pay in mission A? Its fused arm: five seeds, one by one or packed.

Its own chains, batches, adapter and loss, under the laptop profile's settings, with a plain AdamW
(no schedule, one rate: that costs no time); two hosts begin alike and train `--steps` steps a
round, one seed after the other or all in one pass. One thread, interleaved rounds, CPU seconds.
Losses are compared over the first round: later ones drift apart, as any two orders of summing do.
Run: `python benchmarks/packed_mission.py` (about two CPU minutes).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from packed_training import adamw, take_step
from timing import interleaved, machine
from torch import Tensor, nn

from bem import AdapterHost, RoutingContext, load_base
from bem.data import IGNORED, Batch, pad_id_of
from bem.evaluate import target_logits
from bem.kept_memory import freed_memory_kept
from bem.packing import packing_pays
from missions.agentic_planner import contest, world
from missions.agentic_planner.chains import NOBODY, Chain, Marks, training_batch
from missions.agentic_planner.params import Params
from missions.agentic_planner.skills import BatchStream, adapter_config
from missions.local import LocalContext
from missions.registry import load_mission, resolve
from missions.seeding import numpy_generator, torch_generator


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="of each seed, a round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, freed_memory_kept():
        document = measure(Path(folder), args.rounds, args.steps)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def measure(workdir: Path, rounds: int, steps: int) -> dict[str, object]:
    """Both ways in turn."""
    spec = resolve("A")
    params = Params.model_validate(spec.params)
    ctx = LocalContext(spec, workdir, torch.device("cpu"))
    load_mission("A").prepare(spec, ctx)
    train = world.load(ctx.data_dir, "train")
    pool = contest.ground(ctx.base(), train, params).pool
    folder = ctx.base().folder
    apart, packed = (Seeds(load_base(folder), pool, params, spec.seeds) for _ in range(2))
    ways = {
        "one by one": lambda: apart.one_by_one(steps),
        "packed": lambda: packed.packed(steps),
    }
    taken = interleaved(ways, "cpu", rounds, warm=1)
    quicker = [a / b for a, b in zip(taken["one by one"], taken["packed"], strict=True)]
    rows = apart.shapes[0][0]
    tokens = [round(statistics.mean(t for _, t in way.shapes)) for way in (apart, packed)]
    return {
        "what": f"mission A's fused arm, {len(spec.seeds)} seeds, {steps} steps of each a round, "
        f"{rounds} rounds, CPU ms a step of all, one thread",
        "machine": machine("cpu"),
        "rows of a run": rows,
        "tokens of a row, padding included, mean": dict(zip(ways, tokens, strict=True)),
        "packing_pays says": packing_pays(
            runs=len(spec.seeds),
            rows=rows,
            tokens=tokens[0],
            hidden_size=ctx.base().hidden_size,
            device="cpu",
        ),
        "ms": {way: round(1000 * statistics.median(s) / steps, 1) for way, s in taken.items()},
        "packed_quicker": {
            "median": round(statistics.median(quicker), 3),
            "from": round(min(quicker), 3),
            "to": round(max(quicker), 3),
        },
        "largest difference of a loss in the first round": max(
            abs(a - b)
            for name in apart.losses
            for a, b in zip(apart.losses[name][:steps], packed.losses[name][:steps], strict=True)
        ),
    }


class Seeds:
    """The fused arm of every seed as it begins, on one host."""

    def __init__(
        self, base: object, pool: Sequence[Chain], params: Params, seeds: Sequence[int]
    ) -> None:
        self.host = AdapterHost(base)  # type: ignore[arg-type]
        tokenizer = self.host.base.tokenizer
        self.pad_id = pad_id_of(tokenizer)
        self.markers = torch.tensor(list(Marks.of(tokenizer).marker.values()))
        self.marker_weight = params.fused_training.marker_weight
        self.optimizers, self.streams = {}, {}
        self.losses: dict[str, list[float]] = {}
        self.shapes: list[tuple[int, int]] = []
        """Rows and tokens of every forward."""
        for seed in seeds:
            name = f"seed_{seed}"
            generator = torch_generator(seed, "agentic_planner", "init", "fused")
            adapter = self.host.add(name, adapter_config(params.fused), generator=generator)
            self.optimizers[name] = adamw(adapter, lr=params.fused_training.lr)
            order = numpy_generator(seed, "agentic_planner", "order")
            batch = params.fused_training.batch
            self.streams[name] = BatchStream(lambda: pool, batch, order)
            self.losses[name] = []

    def one_by_one(self, steps: int) -> None:
        """All steps of a seed, then the next seed's."""
        for name in self.streams:
            for _ in range(steps):
                batch, acts_BT = self.batch([name])
                context = batch.routing(adapters=(name,), strength={name: acts_BT})
                self.end(self.run_losses([name], [len(acts_BT)], batch, context))

    def packed(self, steps: int) -> None:
        """A step of all seeds, then the next."""
        names = list(self.streams)
        for _ in range(steps):
            batch, acts_BT = self.batch(names)
            rows = [len(acts_BT) // len(names)] * len(names)
            owners = tuple(name for name in names for _ in range(rows[0]))
            context = batch.routing(rows=owners, strength=dict.fromkeys(names, acts_BT))
            self.end(self.run_losses(names, rows, batch, context))

    def batch(self, names: Sequence[str]) -> tuple[Batch, Tensor]:
        """The next chains of these seeds, and where the adapter acts (`skills.fused_routing`)."""
        chains = [chain for name in names for chain in next(self.streams[name])]
        batch, skill_BT = training_batch(
            chains, pad_id=self.pad_id, learn_markers=True, device=torch.device("cpu")
        )
        self.shapes.append((skill_BT.shape[0], skill_BT.shape[1]))
        position_T = torch.arange(skill_BT.shape[1])
        last_BT = position_T == batch.prefix_mask_BT.sum(1)[:, None] - 1
        return batch, ((skill_BT != NOBODY) | last_BT).float()

    def run_losses(
        self, names: Sequence[str], rows: Sequence[int], batch: Batch, context: RoutingContext
    ) -> dict[str, Tensor]:
        """`skills.train_fused`'s loss of each seed on its own rows."""
        logits_NV = target_logits(self.host, batch, context)
        labels_BT = batch.labels_BT[:, 1:]
        targets_B = (labels_BT != IGNORED).sum(1)
        labels_N = labels_BT[labels_BT != IGNORED]
        nll_N = nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")
        weight_N = torch.where(torch.isin(labels_N, self.markers), self.marker_weight, 1.0)
        counts = [int(own.sum()) for own in targets_B.split(list(rows))]
        parts = zip(names, nll_N.split(counts), weight_N.split(counts), strict=True)
        return {name: (nll * weight).sum() / weight.sum() for name, nll, weight in parts}

    def end(self, losses: dict[str, Tensor]) -> None:
        """Backward and the optimizers' steps."""
        torch.stack(list(losses.values())).sum().backward()
        for name, loss in losses.items():
            self.losses[name].append(float(loss.detach()))
            take_step(self.optimizers[name])


if __name__ == "__main__":
    main()
