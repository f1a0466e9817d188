"""What does a training step cost? Our adapters against a hand-written LoRA and against PEFT's.

The hand-written LoRA is what one would write in ten lines: no host, no context, no strength. One
thread, interleaved, medians; every row is a ratio to it in the same run.
Run: `python benchmarks/adapter_step.py` (about a minute); `--device cuda` where there is a GPU, on
a larger base in bfloat16, with `host.fuse()` besides.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from timing import GPU_SHAPE, add_device, attention, clock, interleaved, machine, precision
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bem import AdapterHost, load_base, make_config
from bem.context import RoutingContext
from bem.testing import write_tiny_base

ROWS, TOKENS, RANK, ROUNDS = 24, 72, 8, 25
CPU_SHAPE: dict[str, Any] = {"hidden_size": 128, "layers": 4, "mlp_size": 384}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BANK = {"experts": 4, "top_k": 2, "rank": 2}
"""Four experts of rank 2: a LoRA of rank 8 in all, of which each token uses half."""
OURS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("lora", "lora", {"rank": RANK}),
    ("generated, sequence code", "generated", {"code": "sequence", "rank": RANK}),
    ("generated, token code", "generated", {"code": "token", "rank": RANK}),
    ("bank top-2 of 4, by prompt", "banked", BANK | {"router": "sequence"}),
    ("bank top-2 of 4, by token", "banked", BANK | {"router": "token"}),
)


class HandLora(nn.Module):
    """y + scale * up (down x)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(RANK, linear.in_features) / math.sqrt(RANK))
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x_BTI: Tensor) -> Tensor:
        z_BTR = nn.functional.linear(x_BTI, self.down)
        out: Tensor = self.linear(x_BTI) + 2.0 * nn.functional.linear(z_BTR, self.up)
        return out


def hand_written(path: Path, device: str) -> nn.Module:
    """The base with a `HandLora` at every target."""
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention(device))
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if name.rsplit(".", 1)[-1] in TARGETS:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, HandLora(module))
    made: nn.Module = model.to(device)
    return made


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_device(parser)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    device: str = args.device
    torch.set_num_threads(1)
    shape = GPU_SHAPE if device == "cuda" else CPU_SHAPE
    rows, tokens = (16, 256) if device == "cuda" else (ROWS, TOKENS)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(4, 250, (rows, tokens), generator=generator).to(device)
    prefix_BT = (torch.arange(tokens) < tokens // 2).expand(rows, tokens).to(device)
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_base(Path(folder), "llama", **shape)
        forwards = calls(path, device, ids_BT, prefix_BT, generator)

        def step(forward: Callable[[], Tensor]) -> Callable[[], None]:
            return lambda: train(forward, ids_BT, device)

        steps = {label: step(forward) for label, forward in forwards.items()}
        taken = interleaved(steps, device, args.rounds - 3, warm=3)
    document = {
        "what": f"forward + backward, {clock(device)}, median of {args.rounds - 3} interleaved "
        f"steps, {rows} x {tokens}, {shape}, rank {RANK}",
        "machine": machine(device),
        "ms": {
            label: round(1000 * statistics.median(values), 2) for label, values in taken.items()
        },
        "ratio_to_hand_written": {
            label: round(ratio(values, taken["hand-written LoRA"]), 3)
            for label, values in taken.items()
        },
        "ratio_to_peft_lora": {
            label: round(ratio(values, taken["PEFT LoRA"]), 3) for label, values in taken.items()
        },
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def calls(
    path: Path, device: str, ids_BT: Tensor, prefix_BT: Tensor, generator: torch.Generator
) -> dict[str, Callable[[], Tensor]]:
    """The forward of each way; on a GPU also with kernels, and of the base alone."""
    hand = hand_written(path, device)
    base = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention(device))
    config = LoraConfig(r=RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
    theirs = get_peft_model(base, config).to(device)
    made: dict[str, Callable[[], Tensor]] = {
        "hand-written LoRA": lambda: hand(input_ids=ids_BT, use_cache=False).logits,
        "PEFT LoRA": lambda: theirs(input_ids=ids_BT, use_cache=False).logits,
    }
    fusing = [(f"{label}, kernels", *rest) for label, *rest in OURS if rest[0] != "banked"]
    for label, kind, options in (*OURS, *(fusing if device == "cuda" else ())):
        host = AdapterHost(load_base(path, device=device))
        host.add("a", make_config(kind, **options), generator=generator)
        host.use("a")
        host.fuse("kernels" in label)

        def forward(host: AdapterHost = host) -> Tensor:
            logits: Tensor = host(ids_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT)).logits
            return logits

        made[label] = forward
    return made


def train(forward: Callable[[], Tensor], ids_BT: Tensor, device: str) -> None:
    """One forward and backward."""
    with precision(device):
        logits_BTV = forward()
        loss = nn.functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()
        )
    loss.backward()  # type: ignore[no-untyped-call]


def ratio(mine: list[float], theirs: list[float]) -> float:
    """The median of ratios within a round: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


if __name__ == "__main__":
    main()
