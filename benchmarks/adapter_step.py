"""CPU seconds of one training step: our adapters against PEFT's LoRA on the same base.

One thread, interleaved, medians; every row is a ratio to PEFT LoRA in the same run.
Run: `python benchmarks/adapter_step.py` (about a minute).
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from bem import AdapterHost, load_base, make_config
from bem.context import RoutingContext
from bem.testing import write_tiny_base

ROWS, TOKENS, RANK, ROUNDS = 24, 72, 8, 25
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Measures and prints one JSON document."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(4, 250, (ROWS, TOKENS), generator=generator)
    prefix_BT = (torch.arange(TOKENS) < TOKENS // 2).expand(ROWS, TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_base(Path(folder), "llama", hidden_size=128, layers=4, mlp_size=384)
        steps: dict[str, Callable[[], torch.Tensor]] = {}
        peft_model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager"),
            LoraConfig(r=RANK, target_modules=TARGETS, task_type="CAUSAL_LM"),
        )
        steps["peft lora"] = lambda: peft_model(input_ids=ids_BT, use_cache=False).logits
        for label, kind, options in (
            ("bem lora", "lora", {}),
            ("bem generated, sequence code", "generated", {"code": "sequence"}),
            ("bem generated, token code", "generated", {"code": "token"}),
        ):
            host = AdapterHost(load_base(path))
            host.add("a", make_config(kind, rank=RANK, **options), generator=generator)
            host.use("a")

            def forward(host: AdapterHost = host) -> torch.Tensor:
                logits: torch.Tensor = host(
                    ids_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT)
                ).logits
                return logits

            steps[label] = forward
        taken: dict[str, list[float]] = {label: [] for label in steps}
        for _ in range(ROUNDS):
            for label, step in steps.items():
                started = time.process_time()
                torch.nn.functional.cross_entropy(
                    step()[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()
                ).backward()
                taken[label].append(time.process_time() - started)
    medians = {label: statistics.median(times[3:]) for label, times in taken.items()}
    document = {
        "what": "CPU seconds of forward + backward, one thread, median of "
        f"{ROUNDS - 3} interleaved steps, batch {ROWS} x {TOKENS}, d 128, 4 layers, rank {RANK}",
        "machine": f"{platform.machine()}, {platform.python_version()}, torch {torch.__version__}",
        "cpu_ms": {label: round(1000 * value, 1) for label, value in medians.items()},
        "ratio_to_peft_lora": {
            label: round(value / medians["peft lora"], 3) for label, value in medians.items()
        },
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
