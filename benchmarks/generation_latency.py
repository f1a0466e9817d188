"""What does generating cost with a BEM, against the base with a static LoRA? And its controller?

The same greedy generation (prompt 64, 32 new tokens, no early end) by the base alone, PEFT's LoRA,
a static LoRA of ours and BEMs; then the controller alone at d = 768, on a prompt of 128 tokens. One
thread, interleaved; figures are medians of CPU seconds, ratios medians of ratios within a round.
Run: `python benchmarks/generation_latency.py` (about a minute); `--device cuda`: wall time on a
GPU, on a larger base in bfloat16, with `host.fuse()` besides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from timing import GPU_SHAPE, add_device, attention, clock, interleaved, machine
from transformers import AutoModelForCausalLM

from bem import AdapterHost, load_base, make_config
from bem.context import RoutingContext
from bem.routing.chunks import ChunkController
from bem.routing.controller import SequenceController
from bem.testing import write_tiny_base

PROMPT, NEW, RANK, ROUNDS = 64, 32, 8, 9
SHAPE = {"hidden_size": 192, "layers": 4, "heads": 4, "mlp_size": 512}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
REFERENCE = "static LoRA"
KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (REFERENCE, "lora", {"rank": RANK}),
    ("generated, sequence code", "generated", {"rank": RANK}),
    ("generated, token code", "generated", {"rank": RANK, "code": "token"}),
    ("generated, hierarchy", "generated", {"rank": RANK, "code": "hierarchy"}),
    ("bank top-2 of 4, by prompt", "banked", {"experts": 4, "top_k": 2, "rank": 2}),
)
Call = Callable[[], Any]


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_device(parser)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    device: str = args.device
    shape = GPU_SHAPE if device == "cuda" else SHAPE
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = write_tiny_base(Path(folder), "llama", **shape)
        for rows in (1, 8):
            ids_BT = torch.randint(4, 250, (rows, PROMPT), generator=draw).to(device)
            cases[f"{rows} rows"] = table(
                generations(path, ids_BT, draw, device), args.rounds, REFERENCE, device
            )
        controllers = table(controller_calls(draw, device), 60, None, device)
    document = {
        "what": f"greedy generation, prompt {PROMPT}, {NEW} new tokens, {shape}, rank {RANK} on "
        f"all linears, {clock(device)}; and the controller of one adapter at d 768",
        "machine": f"{machine(device)}, peft {peft.__version__}",
        "generation": cases,
        "controller, a prefill of 128 tokens": controllers,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def generations(
    path: Path, ids_BT: torch.Tensor, draw: torch.Generator, device: str
) -> dict[str, Call]:
    """One call a way to generate."""
    how = {
        "attention_mask": torch.ones_like(ids_BT),
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
    }
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def load() -> Any:
        made = AutoModelForCausalLM.from_pretrained(
            path, attn_implementation=attention(device), dtype=dtype
        )
        return made.to(device).eval()

    plain = load()
    config = peft.LoraConfig(r=RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(load(), config).to(dtype).eval()
    calls: dict[str, Call] = {
        "base alone": lambda: plain.generate(ids_BT, **how),
        "PEFT LoRA": lambda: theirs.generate(input_ids=ids_BT, **how),
    }
    fusing = [(f"{label}, kernels", *rest) for label, *rest in KINDS if rest[0] != "banked"]
    for label, kind, fields in (*KINDS, *(fusing if device == "cuda" else ())):
        host = AdapterHost(load_base(path, device=device, dtype=dtype))
        adapter = host.add("a", make_config(kind, **fields), generator=draw)
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw).to(device))
        host.use("a")
        host.fuse("kernels" in label)

        def call(host: AdapterHost = host) -> Any:
            mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
            with host.routing(RoutingContext(prefix_mask_BT=mask_BT)):
                return host.model.generate(ids_BT, **how)

        calls[label] = call
    return calls


def controller_calls(draw: torch.Generator, device: str) -> dict[str, Call]:
    """Controllers as `generated` builds them at rank 8 for 84 linears (12 layers of d = 768)."""
    h_BTD = torch.randn(1, 128, 768, generator=draw).to(device)
    mask_BT = torch.ones(1, 128, dtype=torch.bool, device=device)
    shape = {"hidden_size": 768, "width": 16, "code_size": 84 * RANK}
    calls: dict[str, Call] = {}
    for pool in ("attention", "mean", "last"):
        sequence = SequenceController(
            **shape, side_size=0, pool=pool, head_spread=6.0, head_bias=1.0, generator=draw
        ).to(device)
        calls[f"sequence, {pool}"] = lambda c=sequence: c(h_BTD, mask_BT, None)  # type: ignore[misc]
    chunks = ChunkController(**shape, chunk_size=16, decay=0.5, head_spread=6.0, generator=draw)
    chunks.to(device)
    calls["chunks of 16"] = lambda: chunks(h_BTD, mask_BT, None)
    return calls


def table(
    calls: dict[str, Call], rounds: int, reference: str | None, device: str
) -> dict[str, Any]:
    """Milliseconds, and ratios to the reference."""
    times = interleaved(calls, device, rounds, warm=1)
    made: dict[str, Any] = {
        "ms": {label: round(1000 * statistics.median(values), 3) for label, values in times.items()}
    }
    if reference is not None:
        made["ratio_to_static_lora"] = {
            label: round(
                statistics.median(a / b for a, b in zip(values, times[reference], strict=True)), 3
            )
            for label, values in times.items()
        }
    return made


if __name__ == "__main__":
    main()
