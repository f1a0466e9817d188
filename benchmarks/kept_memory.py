"""What does a training step gain where the process keeps what it frees (`bem.kept_memory`)?

A step of one LoRA (forward, backward, clipping, AdamW) on the bundled base, rows of up to a quarter
less than `tokens`, their length drawn anew each step; and of five packed LoRAs. A process of its
own for each state, in turn; medians over `--pairs` pairs of CPU ms, page faults a step, peak MiB.
Run: `python benchmarks/kept_memory.py` (about four CPU minutes).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from packed_training import RANK, RUNS, adamw, loss, take_step
from timing import machine

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.kept_memory import freed_memory_kept
from missions.base_model import bundled_path

CASES = ((1, 16, 83), (1, 32, 83), (RUNS, 1, 128), (RUNS, 4, 128))
"""Runs, rows of one, tokens."""
WARM, STEPS = 6, 24
STATES = ("plain", "kept")


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--child", nargs=4, metavar=("STATE", "RUNS", "ROWS", "TOKENS"))
    args = parser.parse_args()
    if args.child is not None:
        state, *shape = args.child
        sys.stdout.write(json.dumps(steps(state, *map(int, shape))) + "\n")
        return
    cases = [table(*case, args.pairs) for case in CASES]
    document = {
        "what": f"CPU ms and page faults of a training step, rank {RANK} on all linears, one "
        "thread; peak memory of the process, MiB",
        "machine": machine("cpu"),
        "cases": cases,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def table(runs: int, rows: int, tokens: int, pairs: int) -> dict[str, Any]:
    """One case: a process a state, in turn."""
    found: dict[str, list[dict[str, float]]] = {state: [] for state in STATES}
    for pair in range(pairs):
        for state in STATES if pair % 2 else reversed(STATES):
            child = ["--child", state, str(runs), str(rows), str(tokens)]
            done = subprocess.run(
                [sys.executable, __file__, *child], check=True, capture_output=True, text=True
            )
            found[state].append(json.loads(done.stdout))
    made: dict[str, Any] = {"runs": runs, "rows": rows, "tokens": tokens}
    for state, values in found.items():
        made[state] = {
            key: round(statistics.median(v[key] for v in values), 1) for key in values[0]
        }
    ratios = [a["ms"] / b["ms"] for a, b in zip(found["plain"], found["kept"], strict=True)]
    return made | {"plain / kept": [round(r, 3) for r in sorted(ratios)]}


def steps(state: str, runs: int, rows: int, tokens: int) -> dict[str, float]:
    """In this process."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    host = AdapterHost(load_base(bundled_path()))
    names = [f"run_{i}" for i in range(runs)]
    optimizers = [
        adamw(host.add(name, make_config("lora", rank=RANK), generator=draw)) for name in names
    ]
    owners = tuple(name for name in names for _ in range(rows))

    def step() -> None:
        length = tokens - int(torch.randint(tokens // 4, (), generator=draw))
        ids_BT = torch.randint(4, 250, (runs * rows, length), generator=draw)
        routing = RoutingContext(rows=owners) if runs > 1 else RoutingContext(adapters=owners[:1])
        logits_BTV = host(ids_BT, routing=routing).logits
        parts = zip(logits_BTV.split(rows), ids_BT.split(rows), strict=True)
        torch.stack([loss(own, ids) for own, ids in parts]).sum().backward()
        for optimizer in optimizers:
            take_step(optimizer)

    with freed_memory_kept() if state == "kept" else contextlib.nullcontext():
        for _ in range(WARM):
            step()
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(STEPS):
            step()
        after = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "ms": 1000 * (time.process_time() - began) / STEPS,
            "faults": (after.ru_minflt - before.ru_minflt) / STEPS,
            "peak": after.ru_maxrss / 1024,
        }


if __name__ == "__main__":
    main()
