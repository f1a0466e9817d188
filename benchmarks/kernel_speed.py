"""Triton kernels of the low-rank delta on a GPU, against torch's products and PEFT's layer.

    python benchmarks/kernel_speed.py     # one JSON document; without a GPU exit code 4, and why

At d = 1,024 and 4,096, rank 8, bfloat16: decoding (1, 8 and 32 rows of one token) and prefill (8 x
512). A row is the delta alone (y is given), for one linear and for q, k and v. `us` is a call after
another from Python, as a model runs them; `graph_us` the same work in a CUDA graph, that is, what
the GPU itself takes. Inputs alternate among several sets. Bandwidth counts what must be read and
written once: x, down, up, y and the output; `of_peak` divides by what a copy of 1 GiB reaches on
the same card. CUDA events, medians of interleaved rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import peft
import torch
import triton
from timing import machine
from torch import Tensor, nn

from bem.kernels import Delta, fused_delta, grouped_delta
from bem.kernels.delta import weighed

RANK, ROUNDS, REPEATS, SETS = 8, 15, 20, 4
SIZES = (1024, 4096)
CASES = {"decode 1": (1, 1), "decode 8": (8, 1), "decode 32": (32, 1), "prefill 8 x 512": (8, 512)}


def main() -> int:
    """Measures and prints; 4 (environment) where there is no GPU."""
    if not torch.cuda.is_available():
        sys.stderr.write("No CUDA device is at hand: kernels are timed on a GPU only.\n")
        return 4
    torch.set_grad_enabled(False)
    peak = copy_bandwidth()
    rows = [
        {"d": size, "case": label} | measure(size, *shape, peak)
        for size in SIZES
        for label, shape in CASES.items()
    ]
    document = {
        "what": f"microseconds of the delta, rank {RANK}, bfloat16, medians of {ROUNDS} rounds",
        "machine": f"{machine('cuda')}, triton {triton.__version__}, peft {peft.__version__}",
        "copy_GB_per_s": round(peak / 1e9),
        "rows": rows,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0


def measure(size: int, rows: int, tokens: int, peak: float) -> dict[str, Any]:
    """One shape, each way in turn."""
    draw = torch.Generator("cuda").manual_seed(0)
    sets = [group(size, rows, tokens, draw) for _ in range(SETS)]
    layers = [peft_layer(deltas[0]) for _, deltas in sets]
    ways: dict[str, Callable[[int], Any]] = {
        "torch": lambda i: products(sets[i][0], sets[i][1][0]),
        "kernel": lambda i: fused_delta(sets[i][0], sets[i][1][0]),
        "PEFT LoRA": lambda i: layers[i](sets[i][0]),
        "torch, q k v": lambda i: [products(sets[i][0], each) for each in sets[i][1]],
        "kernel, q k v one by one": lambda i: [fused_delta(sets[i][0], d) for d in sets[i][1]],
        "kernel, q k v at once": lambda i: grouped_delta(*sets[i]),
    }
    gap = float((ways["torch"](0) - ways["kernel"](0)).float().abs().max())
    graphs = {label: captured(way) for label, way in ways.items()}
    eager: dict[str, list[float]] = {label: [] for label in ways}
    alone: dict[str, list[float]] = {label: [] for label in ways}
    for _ in range(ROUNDS + 3):
        for label, way in ways.items():
            eager[label].append(microseconds(lambda way=way: in_turn(way)) / REPEATS)  # type: ignore[misc]
            alone[label].append(microseconds(graphs[label].replay) / REPEATS)
    us = {label: statistics.median(values[3:]) for label, values in eager.items()}
    graph_us = {label: statistics.median(values[3:]) for label, values in alone.items()}
    moved = 2 * (3 * rows * tokens * size + 2 * RANK * size)
    reached = moved / (graph_us["kernel"] * 1e-6)
    return {
        "us": {label: round(value, 1) for label, value in us.items()},
        "graph_us": {label: round(value, 1) for label, value in graph_us.items()},
        "kernel_GB_per_s": round(reached / 1e9),
        "of_peak": round(reached / peak, 3),
        "largest_difference": gap,
    }


def group(size: int, rows: int, tokens: int, draw: torch.Generator) -> tuple[Tensor, list[Delta]]:
    """x, and the deltas of three linears that read it."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=draw).bfloat16()

    deltas = [
        Delta(
            y_BTO=random(rows, tokens, size),
            down_RI=random(RANK, size) / size**0.5,
            up_OR=random(size, RANK),
            scale=2.0,
            code_BXR=random(rows, 1, RANK),
        )
        for _ in range(3)
    ]
    return random(rows, tokens, size), deltas


def in_turn(way: Callable[[int], Any]) -> None:
    """REPEATS calls over the sets."""
    for i in range(REPEATS):
        way(i % SETS)


def captured(way: Callable[[int], Any]) -> torch.cuda.CUDAGraph:
    """The same calls as a graph."""
    in_turn(way)  # compiles what is still to be compiled
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        in_turn(way)
    return graph


def products(x_BTI: Tensor, delta: Delta) -> Tensor:
    """The delta by torch, the sum fused into the last product."""
    w_BTR = weighed(x_BTI, delta.down_RI, delta.code_BXR, None, None, compute=x_BTI.dtype)
    y_MO, w_MR = delta.y_BTO.flatten(0, 1), w_BTR.flatten(0, 1)
    return torch.addmm(y_MO, w_MR, delta.up_OR.t(), alpha=delta.scale).view(delta.y_BTO.shape)


def peft_layer(delta: Delta) -> nn.Module:
    """PEFT's LoRA over a linear that returns y, so that the delta alone is timed."""

    class Given(nn.Linear):
        def forward(self, x_BTI: Tensor) -> Tensor:
            return delta.y_BTO.clone()

    holder = nn.Module()
    outputs, rank = delta.up_OR.shape
    holder.linear = Given(delta.down_RI.shape[1], outputs, device="cuda", dtype=torch.bfloat16)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["linear"])
    model = peft.get_peft_model(holder, config)
    layer: nn.Module = model.base_model.model.linear.bfloat16().eval()
    return layer


def microseconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()  # type: ignore[no-untyped-call]
    call()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return 1000 * float(begin.elapsed_time(end))  # type: ignore[no-untyped-call]


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 1 GiB."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = min(microseconds(lambda: target.copy_(source)) for _ in range(5))
    return 2 * 2**30 / (best * 1e-6)


if __name__ == "__main__":
    sys.exit(main())
