"""CPU seconds of one training step of 5 LoRAs: packed over one base pass, against 5 runs of PEFT.

A step is forward, backward, clipping and AdamW of all five. Each run has its own rows; "one by one"
are the same five on one base, a forward each. One thread, interleaved, medians of CPU seconds.
On a CPU the process keeps what it frees, PEFT's too, as it does in `fit` and `fit_packed`;
`--plain-malloc`: it does not.
Run: `python benchmarks/packed_training.py` (three CPU minutes); `--device cuda`: wall time on a
GPU, also on a larger base, in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from timing import GPU_SHAPE, add_device, attention, clock, interleaved, machine, precision
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.kept_memory import freed_memory_kept
from bem.testing import write_tiny_base

RUNS, RANK = 5, 8
SHAPES = {
    "d 192, 4 layers": {"hidden_size": 192, "layers": 4, "heads": 4, "mlp_size": 512},
    "d 128, 3 layers": {"hidden_size": 128, "layers": 3, "heads": 4, "mlp_size": 384},
    "d 1024, 4 layers": GPU_SHAPE,
}
ON_A_CPU = tuple(SHAPES)[:2]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = ((1, 32), (1, 128), (4, 32), (4, 128), (16, 32), (16, 128))
"""Rows of one run, tokens."""
KINDS = {
    "lora": ("lora", {}),
    "sequence": ("generated", {"code": "sequence"}),
    "token": ("generated", {"code": "token"}),
}


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_device(parser)
    parser.add_argument("--rows", type=int, nargs="*", default=sorted({rows for rows, _ in CASES}))
    parser.add_argument("--shapes", nargs="*", default=None, choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=None, help="of every case")
    parser.add_argument("--plain-malloc", action="store_true")
    args = parser.parse_args()
    device: str = args.device
    shapes = args.shapes or (list(SHAPES) if device == "cuda" else list(ON_A_CPU))
    torch.set_num_threads(1)
    results, memory = [], {}
    malloc = contextlib.nullcontext() if args.plain_malloc else freed_memory_kept()
    with tempfile.TemporaryDirectory() as folder, malloc:
        for label in shapes:
            path = write_tiny_base(Path(folder) / label.replace(" ", ""), "llama", **SHAPES[label])
            ways = Ways(path, device)
            memory[label] = ways.weights_mib()
            chosen = [case for case in CASES if case[0] in args.rows]
            results += [{"base": label} | ways.measure(*case, args.rounds) for case in chosen]
    document = {
        "what": f"a training step of {RUNS} runs (rank {RANK}, all linears), {clock(device)}",
        "machine": f"{machine(device)}, peft {peft.__version__}",
        "malloc": "as it comes" if args.plain_malloc else "keeps what is freed",
        "weights_mib": memory,
        "cases": results,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


class Ways:
    """The ways to train five runs, on one base."""

    def __init__(self, path: Path, device: str) -> None:
        self.device = device
        draw = torch.Generator().manual_seed(0)
        self.host = AdapterHost(load_base(path, device=device))
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for label, (kind, options) in KINDS.items():
            for i in range(RUNS):
                name = f"{label}_{i}"
                adapter = self.host.add(
                    name, make_config(kind, rank=RANK, **options), generator=draw
                )
                self.optimizers[name] = adamw(adapter)
        config = peft.LoraConfig(r=RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
        self.theirs = []
        for _ in range(RUNS):
            base = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention(device))
            model = peft.get_peft_model(base, config).to(device)
            self.theirs.append((model, adamw(model)))

    def weights_mib(self) -> dict[str, float]:
        """Memory of what each way holds: five models of PEFT, one base with five LoRAs."""

        def mib(modules: Sequence[nn.Module]) -> float:
            sizes = {
                p.data_ptr(): p.numel() * p.element_size() for m in modules for p in m.parameters()
            }
            return round(sum(sizes.values()) / 2**20, 2)

        loras = [self.host[f"lora_{i}"] for i in range(RUNS)]
        adapters = {id(p) for adapter in self.host.adapters.values() for p in adapter.parameters()}
        base = [p for p in self.host.model.parameters() if id(p) not in adapters]
        frozen = nn.ParameterList(base)
        return {"peft, 5 runs": mib([m for m, _ in self.theirs]), "packed": mib([frozen, *loras])}

    def measure(self, rows: int, tokens: int, rounds: int | None) -> dict[str, Any]:
        """One case: each way in turn."""
        draw = torch.Generator().manual_seed(1)
        ids_BT = torch.randint(4, 250, (RUNS * rows, tokens), generator=draw).to(self.device)
        parts = ids_BT.split(rows)
        first_T = torch.arange(tokens, device=self.device) < tokens // 2
        prefix_BT = first_T.expand(RUNS * rows, tokens)

        def peft_runs() -> None:
            for (model, optimizer), part_BT in zip(self.theirs, parts, strict=True):
                with precision(self.device):
                    own = loss(model(input_ids=part_BT, use_cache=False).logits, part_BT)
                own.backward()
                take_step(optimizer)

        def one_by_one(label: str) -> None:
            for i, part_BT in enumerate(parts):
                name = f"{label}_{i}"
                context = RoutingContext(prefix_mask_BT=prefix_BT[:rows], adapters=(name,))
                with precision(self.device):
                    own = loss(self.host(part_BT, routing=context).logits, part_BT)
                own.backward()
                take_step(self.optimizers[name])

        def packed(label: str) -> None:
            names = [f"{label}_{i}" for i in range(RUNS)]
            owners = tuple(name for name in names for _ in range(rows))
            context = RoutingContext(prefix_mask_BT=prefix_BT, rows=owners)
            with precision(self.device):
                logits_BTV = self.host(ids_BT, routing=context).logits
                split = zip(logits_BTV.split(rows), parts, strict=True)
                total = torch.stack([loss(own, part) for own, part in split]).sum()
            total.backward()
            for name in names:
                take_step(self.optimizers[name])

        ways: dict[str, Callable[[], None]] = {"peft, 5 runs": peft_runs}
        for label in KINDS:
            ways[f"{label}, one by one"] = lambda label=label: one_by_one(label)  # type: ignore[misc]
            ways[f"{label}, packed"] = lambda label=label: packed(label)  # type: ignore[misc]
        if rounds is None:
            rounds = max(5, min(25, 1600 // (rows * tokens))) if self.device == "cpu" else 3
        taken = interleaved(ways, self.device, rounds, warm=1)
        ms = {label: 1000 * statistics.median(times) for label, times in taken.items()}
        return {
            "rows": rows,
            "tokens": tokens,
            "rounds": rounds,
            "ms": {label: round(value, 2) for label, value in ms.items()},
            "packed_quicker_than_peft": round(
                statistics.median(
                    a / b for a, b in zip(taken["peft, 5 runs"], taken["lora, packed"], strict=True)
                ),
                2,
            ),
            "packed_quicker_than_one_by_one": {
                label: round(ms[f"{label}, one by one"] / ms[f"{label}, packed"], 2)
                for label in KINDS
            },
        }


def adamw(module: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    """AdamW over what is trainable."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=lr, fused=True)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Clip, step, clear."""
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def loss(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Next-token cross-entropy."""
    return nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())


if __name__ == "__main__":
    main()
