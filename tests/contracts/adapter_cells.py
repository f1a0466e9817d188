"""What the contract tests share: an adapter on a base, small batches, logits in several ways.

Legend: B rows, T positions.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from bem import AdapterHost, RoutingContext, make_config
from bem.data import Batch, Encoded, pad
from bem.interfaces import Adapter, AdapterConfig

PAD = 0
DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(
                    not torch.cuda.is_available(), reason="no CUDA device is at hand"
                ),
            ],
        ),
    ],
    scope="module",
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add(host: AdapterHost, config: AdapterConfig, *, stir: bool = True) -> Adapter:
    """The adapter, with the experts it may ask for; `stir` moves every weight off its start."""
    draw = generator(1)
    for name in ("expert_0", "expert_1"):
        expert = host.add(name, make_config("lora", rank=2), generator=draw)
        stir_up(expert, draw)
    host.freeze()
    adapter = host.add("tested", config, generator=draw)
    if stir:
        stir_up(adapter, draw)
    host.use("tested")
    return adapter


def stir_up(adapter: Adapter, draw: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in adapter.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.add_(0.1 * noise.to(parameter.device))


def rows(count: int = 4, seed: int = 0) -> list[Encoded]:
    draw = generator(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=draw).tolist())

    return [
        Encoded(prompt_ids=tokens(4 + i), target_ids=tokens(3 + i % 2), id=str(i), cluster="c")
        for i in range(count)
    ]


def batch_of(count: int = 4, device: torch.device | str = "cpu") -> Batch:
    return pad(rows(count), pad_id=PAD, device=device)


@torch.no_grad()
def logits(host: AdapterHost, batch: Batch, **routing: object) -> Tensor:
    out = host(batch.input_ids_BT, batch.attention_mask_BT, routing=batch.routing(**routing))
    made: Tensor = out.logits
    return made


@torch.no_grad()
def cached(host: AdapterHost, batch: Batch) -> Tensor:
    """Logits of all real positions: prefill of the prompt, then token by token."""
    parts = []
    for row in range(len(batch.ids)):
        length = int(batch.attention_mask_BT[row].sum())
        prompt = int(batch.prefix_mask_BT[row].sum())
        ids_1T = batch.input_ids_BT[row : row + 1, :length]
        cache = DynamicCache(config=host.model.config)
        context = RoutingContext(prefix_mask_BT=torch.ones_like(ids_1T[:, :prompt]).bool())
        parts.append(host(ids_1T[:, :prompt], routing=context, past_key_values=cache).logits[0])
        for t in range(prompt, length):
            step = host(ids_1T[:, t : t + 1], routing=context, past_key_values=cache)
            parts.append(step.logits[0])
    return torch.cat(parts)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert a.shape == b.shape
    scale = float(b.abs().max())
    assert float((a - b).abs().max()) <= tolerance * scale
