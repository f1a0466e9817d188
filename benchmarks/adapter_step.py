"""What does a training step cost? Our adapters against a hand-written LoRA and against PEFT's.

The hand-written LoRA is what one would write in ten lines: no host, no context, no strength. One
thread, interleaved, medians; every row is a ratio to it in the same run.
Run: `python benchmarks/adapter_step.py` (about a minute); `--device cuda` where there is a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bem import AdapterHost, load_base, make_config
from bem.context import RoutingContext
from bem.testing import write_tiny_base

ROWS, TOKENS, RANK, ROUNDS = 24, 72, 8, 25
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
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
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
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(4, 250, (ROWS, TOKENS), generator=generator).to(args.device)
    prefix_BT = (torch.arange(TOKENS) < TOKENS // 2).expand(ROWS, TOKENS).to(args.device)
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_base(Path(folder), "llama", hidden_size=128, layers=4, mlp_size=384)
        hand = hand_written(path, args.device)
        theirs = get_peft_model(
            AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager"),
            LoraConfig(r=RANK, target_modules=TARGETS, task_type="CAUSAL_LM"),
        ).to(args.device)
        steps: dict[str, Callable[[], Tensor]] = {
            "hand-written LoRA": lambda: hand(input_ids=ids_BT, use_cache=False).logits,
            "PEFT LoRA": lambda: theirs(input_ids=ids_BT, use_cache=False).logits,
        }
        for label, kind, options in OURS:
            host = AdapterHost(load_base(path, device=args.device))
            host.add("a", make_config(kind, **options), generator=generator)
            host.use("a")

            def forward(host: AdapterHost = host) -> Tensor:
                logits: Tensor = host(
                    ids_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT)
                ).logits
                return logits

            steps[label] = forward
        taken: dict[str, list[float]] = {label: [] for label in steps}
        for _ in range(args.rounds):
            for label, step in steps.items():
                taken[label].append(seconds(step, ids_BT))
    medians = {label: statistics.median(times[3:]) for label, times in taken.items()}
    document = {
        "what": "seconds of forward + backward (CPU time on a CPU), one thread, median of "
        f"{args.rounds - 3} interleaved steps, {ROWS} x {TOKENS}, d 128, 4 layers, rank {RANK}",
        "machine": f"{platform.machine()}, {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.cuda.get_device_name() if args.device == 'cuda' else 'cpu'}",
        "ms": {label: round(1000 * value, 1) for label, value in medians.items()},
        "ratio_to_hand_written": {
            label: round(ratio(taken[label], taken["hand-written LoRA"]), 3) for label in medians
        },
        "ratio_to_peft_lora": {
            label: round(ratio(taken[label], taken["PEFT LoRA"]), 3) for label in medians
        },
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def seconds(step: Callable[[], Tensor], ids_BT: Tensor) -> float:
    """Of one forward and backward."""
    on_gpu = ids_BT.is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    started = clock()
    loss = nn.functional.cross_entropy(step()[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


def ratio(mine: list[float], theirs: list[float]) -> float:
    """The median of ratios within a round: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(mine[3:], theirs[3:], strict=True))


if __name__ == "__main__":
    main()
