"""What one does with an adapter, each as a check on the device that the host's base is on.

`test_matrix` runs them on a CPU for every family, `test_on_gpu` on a CUDA device.

Legend: B rows, T positions.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_cells import add, batch_of, cached, close, generator, logits
from torch import Tensor

from bem import AdapterHost, BaseModel, RoutingContext
from bem.checkpoint import load_adapter, save_adapter
from bem.data import Batch
from bem.evaluate import target_loss
from bem.interfaces import Adapter
from bem.mixed import BASE_ROW, SlowRowsWarning
from bem.testing.support import refusal, variants
from bem.training import fit

VARIANTS = variants()


def _batch(host: AdapterHost, count: int = 2) -> Batch:
    return batch_of(count, host.base.device)


def forward(host: AdapterHost, folder: Path) -> None:
    batch = _batch(host)
    base = logits(host, batch, adapters=())
    assert not torch.allclose(logits(host, batch), base, atol=1e-3)
    assert torch.equal(logits(host, batch, strength=0.0), base)


def cached_decode(host: AdapterHost, folder: Path) -> None:
    batch = _batch(host)
    close(cached(host, batch), logits(host, batch)[batch.attention_mask_BT.bool()], 2e-5)


@torch.no_grad()
def beam_search(host: AdapterHost, folder: Path) -> None:
    """Beams change places, and what belongs to a row goes with it."""
    beams, prompt, new = 4, 5, 4
    ids_BT = torch.randint(3, 250, (2, prompt), generator=generator(7)).to(host.base.device)
    prefix_BT = torch.ones_like(ids_BT).bool()
    context = RoutingContext(prefix_mask_BT=prefix_BT)
    index = torch.arange(2, device=host.base.device).repeat_interleave(beams)
    with host.routing(context.take(index)):
        out = host.model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            max_new_tokens=new,
            min_new_tokens=new,
            return_dict_in_generate=True,
            output_scores=True,
        )
    assert any(len(set(row)) > 1 for row in out.beam_indices.tolist())
    full_BT = torch.ones_like(out.sequences, dtype=torch.bool)
    full_BT[:, prompt:] = False
    full = host(out.sequences, routing=RoutingContext(prefix_mask_BT=full_BT)).logits
    chosen_BT1 = out.sequences[:, prompt:, None]
    logp_BT = full[:, prompt - 1 : -1].log_softmax(-1).gather(-1, chosen_BT1).squeeze(-1)
    torch.testing.assert_close(out.sequences_scores, logp_BT.sum(1) / new, rtol=1e-4, atol=1e-4)


def checkpointing(host: AdapterHost, folder: Path) -> None:
    adapter = host["tested"]
    if adapter.gradient_free:
        batch = _batch(host)
        groups = host.parameter_groups(1e-3)
        fit(lambda step: target_loss(host, batch, batch.routing()), groups, steps=1)
    plain = gradients(host, adapter)
    host.enable_gradient_checkpointing()
    try:
        recomputed = gradients(host, adapter)
    finally:
        host.model.activation_checkpointing_disable()
        host.eval()
    assert len(plain) == len(recomputed) > 0
    for first, second in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-7)


def gradients(host: AdapterHost, adapter: Adapter) -> list[Tensor]:
    batch = _batch(host)
    target_loss(host, batch, batch.routing()).backward()
    found = [p.grad.clone() for p in adapter.trainable() if p.grad is not None]
    adapter.zero_grad(set_to_none=True)
    return found


def autocast(host: AdapterHost, folder: Path) -> None:
    adapter, batch = host["tested"], _batch(host)
    exact = logits(host, batch)
    with torch.autocast(host.base.device.type, torch.bfloat16):
        loss = target_loss(host, batch, batch.routing())
        rough = logits(host, batch).float()
    bound = 0.25 if adapter.routes_hard else 0.05  # a rounded input may choose another expert
    assert float((rough - exact).abs().mean()) < bound * float(exact.abs().mean())
    if not adapter.gradient_free:
        loss.backward()
        assert all(p.grad is not None and p.grad.dtype == p.dtype for p in adapter.trainable())
        adapter.zero_grad(set_to_none=True)


def save_and_load(host: AdapterHost, folder: Path) -> None:
    batch = _batch(host)
    before = logits(host, batch)
    save_adapter(host, "tested", folder / "saved")
    load_adapter(host, "again", folder / "saved")
    try:
        assert torch.equal(logits(host, batch, adapters=("again",)), before)
    finally:
        host.remove("again")


def mixed_batch(host: AdapterHost, folder: Path) -> None:
    batch = _batch(host, 4)
    names = ("tested", BASE_ROW, "expert_0", "tested")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowRowsWarning)  # right all the same, which is the point
        together = logits(host, batch, rows=names)
    for row, name in enumerate(names):
        real = int(batch.attention_mask_BT[row].sum())
        alone = logits(host, batch, adapters=() if name == BASE_ROW else (name,))
        close(together[row, :real], alone[row, :real], 2e-5)


def nf4(host: AdapterHost, folder: Path) -> None:
    """Its base is in NF4."""
    forward(host, folder)
    cached_decode(host, folder)
    adapter = host["tested"]
    if not adapter.gradient_free:
        assert len(gradients(host, adapter)) == len(adapter.trainable())


RUN: dict[str, Callable[[AdapterHost, Path], None]] = {
    "forward": forward,
    "cached decode": cached_decode,
    "beam search": beam_search,
    "checkpointing": checkpointing,
    "bf16 autocast": autocast,
    "save and load": save_and_load,
    "mixed batch": mixed_batch,
    "NF4": nf4,
}


def check_cell(
    host: AdapterHost, nf4_base: BaseModel, label: str, family: str, use: str, folder: Path
) -> None:
    """One cell of the matrix: it works, or is refused in the words that the page has for it."""
    config = VARIANTS[label]
    expected = refusal(config.kind, family, use)
    with contextlib.ExitStack() as stack:
        if expected is not None:
            stack.enter_context(pytest.raises(ValueError, match=expected))
        if use == "NF4":
            host = stack.enter_context(AdapterHost(nf4_base))
            add(host, config)
        RUN[use](host, folder)
