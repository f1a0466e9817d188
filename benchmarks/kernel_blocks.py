"""Which block sizes, warps and pipeline depths make the kernels quick, and where one launch ends.

    python benchmarks/kernel_blocks.py              # one JSON document; needs a CUDA device
    python benchmarks/kernel_blocks.py --compile 8  # fills Triton's cache in 8 processes first

Every choice is timed in a CUDA graph (what the GPU takes), for one linear and for q, k and v, row
code, rank 8, bfloat16; then one launch against two by number of tokens, and what a call costs in
Python. `bem/kernels/programs.py` has the sizes that won.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import triton
from kernel_speed import RANK, captured, copy_bandwidth, group, microseconds, products
from timing import machine
from torch import Tensor

from bem.errors import first_line
from bem.kernels import Delta, fused_delta, grouped_delta
from bem.kernels.delta import MOST
from bem.kernels.programs import EXPAND, FEW, SHRINK, Blocks, launch

ROUNDS, REPEATS = 9, 20
SIZES = (1024, 4096)
FEW_CHOICES = [
    Blocks(BM=16, BI=bi, BO=bo, num_warps=w, num_stages=s)
    for bi, bo, w, s in (
        (64, 128, 4, 3), (128, 32, 4, 4), (128, 64, 4, 3), (128, 128, 4, 3), (256, 32, 4, 3),
        (256, 64, 4, 3), (256, 128, 4, 3), (256, 64, 8, 3), (512, 32, 4, 2), (512, 64, 4, 2),
        (512, 64, 8, 2), (512, 32, 8, 3), (1024, 32, 8, 2), (512, 16, 4, 3), (256, 16, 4, 4),
    )
]  # fmt: skip
SHRINK_CHOICES = [
    Blocks(BM=bm, BI=bi, num_warps=w, num_stages=s)
    for bm, bi, w, s in (
        (16, 64, 4, 3), (16, 128, 4, 3), (16, 128, 4, 4), (16, 256, 4, 3), (16, 256, 8, 3),
        (16, 512, 8, 2), (32, 128, 4, 3), (32, 128, 4, 4), (32, 256, 8, 3), (64, 64, 4, 4),
        (64, 128, 4, 3), (64, 128, 8, 4), (128, 64, 8, 4), (16, 512, 4, 3),
    )
]  # fmt: skip
EXPAND_CHOICES = [
    Blocks(BM=bm, BO=bo, num_warps=w)
    for bm, bo, w in (
        (16, 128, 4), (16, 256, 4), (32, 128, 4), (32, 256, 4), (64, 64, 4), (64, 128, 4),
        (64, 128, 8), (64, 256, 8), (128, 64, 4), (128, 128, 8), (32, 512, 8), (16, 512, 4),
    )
]  # fmt: skip
Many = tuple[Blocks, Blocks]


def main() -> int:
    """Measures and prints; 4 (environment) where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", type=int, default=0, metavar="PROCESSES")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("No CUDA device is at hand: kernels are timed on a GPU only.\n")
        return 4
    if args.compile:
        with multiprocessing.get_context("spawn").Pool(args.compile) as pool:
            pool.map(compile_part, [(i, args.compile) for i in range(args.compile)])
        return 0
    torch.set_grad_enabled(False)
    peak = copy_bandwidth()
    document = {
        "what": f"microseconds on the GPU, rank {RANK}, bfloat16, medians of {ROUNDS} rounds",
        "machine": f"{machine('cuda')}, triton {triton.__version__}",
        "copy_GB_per_s": round(peak / 1e9),
        "few": [sweep(size, rows, 1, FEW_CHOICES, None) for size in SIZES for rows in (1, 32)],
        "shrink": [sweep(size, 8, 512, SHRINK_CHOICES, "shrink") for size in SIZES],
        "expand": [sweep(size, 8, 512, EXPAND_CHOICES, "expand") for size in SIZES],
        "one launch or two": [one_or_two(size) for size in SIZES],
        "a call in Python, us": python_costs(),
    }
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    return 0


def run(x_BTI: Tensor, deltas: list[Delta], few: Blocks | None, many: Many | None) -> None:
    """One launch or two with these blocks."""
    tensors = [
        t
        for d in deltas
        for t in (d.y_BTO, d.down_RI, d.up_OR, d.code_BXR, d.gate_RR, d.gate_bias_R)
    ]
    scales = [d.scale for d in deltas]
    launch(x_BTI, scales, tensors, autocast=False, most=MOST, few=few, many=many)


def sweep(
    size: int, rows: int, tokens: int, choices: list[Blocks], part: str | None
) -> dict[str, Any]:
    """Every choice at one shape, quickest first; the other program keeps its own blocks."""
    draw = torch.Generator("cuda").manual_seed(0)
    sets = [group(size, rows, tokens, draw) for _ in range(4)]
    calls: dict[str, Callable[[int], Any]] = {}
    for blocks in choices:
        few = blocks if part is None else None
        many = (blocks, EXPAND) if part == "shrink" else (SHRINK, blocks)
        pair = None if part is None else many
        name = ", ".join(str(getattr(blocks, f)) for f in Blocks.__dataclass_fields__)
        calls[f"1: {name}"] = (
            lambda i, few=few, pair=pair: run(  # type: ignore[misc]
                sets[i][0], sets[i][1][:1], few, pair
            )
        )
        calls[f"3: {name}"] = lambda i, few=few, pair=pair: run(*sets[i], few, pair)  # type: ignore[misc]
    return {"d": size, "rows": rows, "tokens": tokens, "us": timed(calls)}


def one_or_two(size: int) -> dict[str, Any]:
    """Each number of tokens in both forms, one linear."""
    draw = torch.Generator("cuda").manual_seed(0)
    found: dict[str, Any] = {}
    for tokens in (1, 16, 32, 64, 128, 256, 512, 1024):
        sets = [group(size, 1, tokens, draw) for _ in range(4)]
        found[str(tokens)] = timed(
            {
                "one": lambda i, sets=sets: run(sets[i][0], sets[i][1][:1], FEW, None),  # type: ignore[misc]
                "two": lambda i, sets=sets: run(sets[i][0], sets[i][1][:1], None, (SHRINK, EXPAND)),  # type: ignore[misc]
                "torch": lambda i, sets=sets: products(sets[i][0], sets[i][1][0]),  # type: ignore[misc]
            }
        )
    return {"d": size, "us by tokens": found}


def python_costs() -> dict[str, float]:
    """What the calling thread spends on a call, decoding one row; the GPU keeps up."""
    draw = torch.Generator("cuda").manual_seed(0)
    x_BTI, deltas = group(1024, 1, 1, draw)
    one = deltas[:1]
    calls: dict[str, Callable[[], Any]] = {
        "torch, one linear": lambda: products(x_BTI, deltas[0]),
        "torch, q k v": lambda: [products(x_BTI, d) for d in deltas],
        "fused_delta": lambda: fused_delta(x_BTI, deltas[0]),
        "grouped_delta, q k v": lambda: grouped_delta(x_BTI, deltas),
        "launch alone, one linear": lambda: run(x_BTI, one, FEW, None),
        "launch alone, q k v": lambda: run(x_BTI, deltas, FEW, None),
        "an empty tensor": lambda: torch.empty_like(x_BTI),
    }
    costs: dict[str, float] = {}
    for label, call in calls.items():
        best = float("inf")
        for _ in range(5):
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(100):
                call()
            best = min(best, (time.perf_counter() - started) / 100)
        costs[label] = round(1e6 * best, 1)
    return costs


def timed(calls: dict[str, Callable[[int], Any]]) -> dict[str, Any]:
    """Microseconds of one call by label, quickest first; an error instead of a choice that does
    not fit the device."""
    graphs, failed = {}, {}
    for label, call in calls.items():
        try:
            graphs[label] = captured(call)
        except triton.runtime.errors.OutOfResources as error:
            failed[label] = first_line(error)
    taken: dict[str, list[float]] = {label: [] for label in graphs}
    for _ in range(ROUNDS + 2):
        for label, graph in graphs.items():
            taken[label].append(microseconds(graph.replay) / REPEATS)
    medians = {label: round(statistics.median(v[2:]), 2) for label, v in taken.items()}
    return dict(sorted(medians.items(), key=lambda item: item[1])) | failed


def compile_part(part: tuple[int, int]) -> None:
    """Every n-th choice once, so that it lies in the cache on disk."""
    at, count = part
    torch.set_grad_enabled(False)
    draw = torch.Generator("cuda").manual_seed(0)
    work: list[tuple[int, Blocks | None, Many | None]] = []
    for rows in (1, 32):
        work += [(rows, blocks, None) for blocks in FEW_CHOICES]
    work += [(512, None, (blocks, EXPAND)) for blocks in SHRINK_CHOICES]
    work += [(512, None, (SHRINK, blocks)) for blocks in EXPAND_CHOICES]
    for rows, few, many in work[at::count]:
        x_BTI, deltas = group(1024, rows, 1, draw)
        for chosen in (deltas[:1], deltas):
            try:
                run(x_BTI, chosen, few, many)
            except triton.runtime.errors.OutOfResources:
                continue
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
