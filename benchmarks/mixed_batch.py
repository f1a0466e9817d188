"""CPU seconds of one forward of a batch whose rows have 8 different LoRAs: ours against PEFT.

PEFT's `adapter_names` and `RoutingContext(rows=...)` run the same LoRAs (same weights, logits are
compared) on the same base and batch. One thread, interleaved, medians of CPU seconds.
Run: `python benchmarks/mixed_batch.py` (about a minute); `--device cuda`: wall time on a GPU, on a
larger base, float32 for both.
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
from timing import GPU_SHAPE, add_device, attention, interleaved, machine
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.testing import write_tiny_base

ADAPTERS, RANK = 8, 8
SHAPE = {"hidden_size": 192, "layers": 4, "heads": 4, "mlp_size": 512}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = ((16, 0, 1, 80), (32, 0, 1, 80), (16, 64, 1, 60), (16, 0, 128, 15))
"""Rows, tokens in the KV cache, tokens, rounds."""


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_device(parser)
    args = parser.parse_args()
    device: str = args.device
    shape = GPU_SHAPE if device == "cuda" else SHAPE
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_base(Path(folder), "llama", **shape)
        host = our_host(path, device)
        theirs = peft_model(path, host, device)
        plain = load(path, device).eval()
        results = [measure(host, theirs, plain, device, *case) for case in CASES]
    document = {
        "what": f"one forward, {ADAPTERS} LoRAs of rank {RANK} on all linears, {shape}, "
        + ("CPU ms, one thread" if device == "cpu" else "wall ms"),
        "machine": f"{machine(device)}, peft {peft.__version__}",
        "cases": results,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def load(path: Path, device: str) -> Any:
    """The base by itself."""
    base = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention(device))
    return base.to(device)


def our_host(path: Path, device: str) -> AdapterHost:
    """Eight LoRAs, then eight sequence-code and eight token-code BEMs, none at zero."""
    host = AdapterHost(load_base(path, device=device))
    draw = torch.Generator().manual_seed(0)
    for label, kind, options in (
        ("lora", "lora", {}),
        ("sequence", "generated", {"code": "sequence"}),
        ("token", "generated", {"code": "token"}),
    ):
        for i in range(ADAPTERS):
            adapter = host.add(
                f"{label}_{i}", make_config(kind, rank=RANK, **options), generator=draw
            )
            with torch.no_grad():
                for parameter in adapter.parameters():
                    noise = torch.randn(parameter.shape, generator=draw)
                    parameter.add_(0.05 * noise.to(device))
    host.freeze()
    return host


def peft_model(path: Path, host: AdapterHost, device: str) -> Any:
    """The same LoRAs in PEFT."""
    base = load(path, device)
    config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config, adapter_name="lora_0")
    for i in range(1, ADAPTERS):
        model.add_adapter(f"lora_{i}", config)
    for i in range(ADAPTERS):
        adapter = host[f"lora_{i}"]
        for site, layer in zip(adapter.sites, adapter.layers, strict=True):
            theirs = model.base_model.model.get_submodule(site.name)
            theirs.lora_A[f"lora_{i}"].weight.data.copy_(layer.down_RI)
            theirs.lora_B[f"lora_{i}"].weight.data.copy_(layer.up_OR)
    return model.to(device).eval()


def measure(
    host: AdapterHost,
    theirs: Any,
    plain: Any,
    device: str,
    rows: int,
    past: int,
    tokens: int,
    rounds: int,
) -> dict[str, Any]:
    """One case: each way in turn, `rounds` times."""
    draw = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(4, 250, (rows, past + tokens), generator=draw).to(device)
    prompt_BT, step_BT = ids_BT[:, :past], ids_BT[:, past:]
    order = [i % ADAPTERS for i in range(rows)]
    names = [f"lora_{i}" for i in order]
    prefix_BT = torch.ones(rows, past or tokens, dtype=torch.bool, device=device)

    def decode(call: Callable[..., Any], config: Any) -> Callable[[], Tensor]:
        """A forward of the last tokens; the KV cache is cut back to the context each time."""
        if not past:
            return lambda: call(step_BT).logits  # type: ignore[no-any-return]
        cache = DynamicCache(config=config)
        call(prompt_BT, past_key_values=cache, use_cache=True)

        def step() -> Tensor:
            cache.crop(-1) if cache.get_seq_length() > past else None
            made: Tensor = call(step_BT, past_key_values=cache, use_cache=True).logits
            return made

        return step

    def ours(label: str) -> Callable[[], Tensor]:
        context = RoutingContext(
            prefix_mask_BT=prefix_BT, rows=tuple(f"{label}_{i}" for i in order)
        )
        return decode(lambda ids, **kw: host(ids, routing=context, **kw), host.model.config)

    def one_lora() -> Callable[[], Tensor]:
        context = RoutingContext(adapters=("lora_0",))
        return decode(lambda ids, **kw: host(ids, routing=context, **kw), host.model.config)

    ways: dict[str, Callable[[], Tensor]] = {}
    with torch.inference_mode():
        ways["base alone"] = decode(lambda ids, **kw: plain(input_ids=ids, **kw), plain.config)
        ways["peft adapter_names"] = decode(
            lambda ids, **kw: theirs(input_ids=ids, adapter_names=names, **kw), plain.config
        )
        ways["one LoRA for all rows"] = one_lora()
        for label in ("lora", "sequence", "token"):
            ways[f"mixed {label}"] = ours(label)
        gap = float((ways["mixed lora"]() - ways["peft adapter_names"]()).abs().max())
        if gap > (1e-4 if device == "cpu" else 1e-2):
            raise ValueError(f"Logits of both differ by {gap}.")
        taken = interleaved(ways, device, rounds if device == "cpu" else 15, warm=2)
    medians = {label: statistics.median(times) for label, times in taken.items()}
    return {
        "rows": rows,
        "cached": past,
        "tokens": tokens,
        "rounds": rounds,
        "largest_logit_difference": gap,
        "ms": {label: round(1000 * value, 2) for label, value in medians.items()},
        "quicker_than_peft": {
            label: round(medians["peft adapter_names"] / value, 2)
            for label, value in medians.items()
        },
    }


if __name__ == "__main__":
    main()
