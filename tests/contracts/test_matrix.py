"""Every adapter on every family in every use: each cell works, or says clearly that it cannot.

`bem.testing.support` says which; the page docs/adapters.md is written from the same. One small
config a kind and way of reading its context; `test_adapters` goes deeper, over all examples.

Legend: B rows, T positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from adapter_cells import add, batch_of, cached, close, generator, logits
from torch import Tensor

from bem import AdapterHost, BaseModel, RoutingContext, adapter_kinds, load_base
from bem.checkpoint import load_adapter, save_adapter
from bem.evaluate import target_loss
from bem.interfaces import Adapter
from bem.mixed import BASE_ROW, SlowRowsWarning
from bem.nf4 import quantise_base
from bem.testing import write_tiny_base
from bem.testing.support import FAMILIES, PAGE, USES, refusal, variants, with_table
from bem.training import fit


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sizes are multiples of 64, as NF4 on a CPU asks."""
    root = tmp_path_factory.mktemp("bases")
    return {
        family: write_tiny_base(root / family, family, hidden_size=64, mlp_size=64)
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, BaseModel]:
    return {family: load_base(folder) for family, folder in folders.items()}


@pytest.fixture(scope="module")
def nf4_bases(folders: dict[str, Path]) -> dict[str, BaseModel]:
    return {family: quantise_base(load_base(folder)) for family, folder in folders.items()}


VARIANTS = variants()
PAIRS = [(label, family) for label in VARIANTS for family in FAMILIES]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "-".join(pair))
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    made: tuple[str, str] = request.param
    return made


@pytest.fixture(scope="module")
def host(pair: tuple[str, str], bases: dict[str, BaseModel]) -> Iterator[AdapterHost]:
    """One host for all uses of a pair; each leaves it as it was."""
    label, family = pair
    with AdapterHost(bases[family]) as made:
        add(made, VARIANTS[label])
        yield made


def forward(host: AdapterHost, folder: Path) -> None:
    batch = batch_of(2)
    base = logits(host, batch, adapters=())
    assert not torch.allclose(logits(host, batch), base, atol=1e-3)
    assert torch.equal(logits(host, batch, strength=0.0), base)


def cached_decode(host: AdapterHost, folder: Path) -> None:
    batch = batch_of(2)
    close(cached(host, batch), logits(host, batch)[batch.attention_mask_BT.bool()], 2e-5)


@torch.no_grad()
def beam_search(host: AdapterHost, folder: Path) -> None:
    """Beams change places, and what belongs to a row goes with it."""
    beams, prompt, new = 4, 5, 4
    ids_BT = torch.randint(3, 250, (2, prompt), generator=generator(7))
    prefix_BT = torch.ones(2, prompt, dtype=torch.bool)
    context = RoutingContext(prefix_mask_BT=prefix_BT)
    with host.routing(context.take(torch.arange(2).repeat_interleave(beams))):
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
        batch = batch_of(2)
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
    batch = batch_of(2)
    target_loss(host, batch, batch.routing()).backward()
    found = [p.grad.clone() for p in adapter.trainable() if p.grad is not None]
    adapter.zero_grad(set_to_none=True)
    return found


def autocast(host: AdapterHost, folder: Path) -> None:
    adapter, batch = host["tested"], batch_of(2)
    exact = logits(host, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = target_loss(host, batch, batch.routing())
        rough = logits(host, batch).float()
    bound = 0.25 if adapter.routes_hard else 0.05  # a rounded input may choose another expert
    assert float((rough - exact).abs().mean()) < bound * float(exact.abs().mean())
    if not adapter.gradient_free:
        loss.backward()
        assert all(p.grad is not None and p.grad.dtype == p.dtype for p in adapter.trainable())
        adapter.zero_grad(set_to_none=True)


def save_and_load(host: AdapterHost, folder: Path) -> None:
    batch = batch_of(2)
    before = logits(host, batch)
    save_adapter(host, "tested", folder / "saved")
    load_adapter(host, "again", folder / "saved")
    try:
        assert torch.equal(logits(host, batch, adapters=("again",)), before)
    finally:
        host.remove("again")


def mixed_batch(host: AdapterHost, folder: Path) -> None:
    batch = batch_of(4)
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


@pytest.mark.parametrize("use", USES)
def test_cell(
    pair: tuple[str, str],
    host: AdapterHost,
    nf4_bases: dict[str, BaseModel],
    use: str,
    tmp_path: Path,
) -> None:
    label, family = pair
    config = VARIANTS[label]
    expected = refusal(config.kind, family, use)

    def run() -> None:
        if use != "NF4":
            RUN[use](host, tmp_path)
            return
        with AdapterHost(nf4_bases[family]) as over:
            add(over, config)
            RUN[use](over, tmp_path)

    if expected is None:
        run()
        return
    with pytest.raises(ValueError, match=expected):
        run()


def test_every_use_of_the_page_is_run_and_the_page_is_in_step() -> None:
    assert tuple(RUN) == USES
    assert {config.kind for config in VARIANTS.values()} == set(adapter_kinds())
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run: python -m bem.testing.support"
