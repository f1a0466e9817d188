"""What every adapter in the registry must do. A new folder in bem/adapters is covered as it is.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapter_cells import PAD, add, batch_of, cached, close, generator, logits, rows
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from bem import (
    AdapterHost,
    BaseModel,
    RoutingContext,
    adapter_class,
    adapter_kinds,
    load_base,
)
from bem.base import linear_shape
from bem.checkpoint import load_adapter, save_adapter
from bem.data import pad
from bem.evaluate import target_loss
from bem.interfaces import Adapter, AdapterConfig
from bem.nf4 import quantise_base
from bem.registry import naive_module
from bem.sizing import count_parameters
from bem.testing import write_tiny_base

CONFIGS = [config for kind in adapter_kinds() for config in adapter_class(kind).examples()]
ADAPTERS = pytest.mark.parametrize(
    "config", CONFIGS, ids=[f"{c.kind}-{i}" for i, c in enumerate(CONFIGS)]
)
OTHER_FAMILIES = ["qwen2", "mistral", "gpt2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {f: write_tiny_base(root / f, f, layers=3) for f in ["llama", *OTHER_FAMILIES]}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, BaseModel]:
    return {family: load_base(folder) for family, folder in folders.items()}


@pytest.fixture
def host(bases: dict[str, BaseModel]) -> Iterator[AdapterHost]:
    made = AdapterHost(bases["llama"])
    yield made
    made.detach()


@ADAPTERS
def test_zero_at_initialisation(host: AdapterHost, config: AdapterConfig) -> None:
    batch = batch_of()
    before = logits(host, batch)
    adapter = add(host, config, stir=False)
    assert torch.equal(logits(host, batch), before) == adapter.starts_at_base


@ADAPTERS
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_every_family(bases: dict[str, BaseModel], config: AdapterConfig, family: str) -> None:
    """On each family: it changes the output, cached decoding agrees, detaching restores."""
    host = AdapterHost(bases[family])
    batch = batch_of()
    before = logits(host, batch)
    add(host, config)
    full = logits(host, batch)
    assert not torch.allclose(full, before, atol=1e-3)
    close(cached(host, batch), full[batch.attention_mask_BT.bool()], 2e-5)
    host.detach()
    restored = bases[family].model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
    assert torch.equal(restored.logits, before)


@ADAPTERS
def test_prefill_and_decode_equal_the_full_forward(
    host: AdapterHost, config: AdapterConfig
) -> None:
    add(host, config)
    batch = batch_of()
    close(cached(host, batch), logits(host, batch)[batch.attention_mask_BT.bool()])


@ADAPTERS
@pytest.mark.parametrize("cuts", [(1, 6), (5, 6, 9)])
def test_any_split_into_forwards_equals_the_full_one(
    host: AdapterHost, config: AdapterConfig, cuts: tuple[int, ...]
) -> None:
    """Prompt, then pieces of any length, two rows of equal length with a common prompt length."""
    adapter = add(host, config)
    ids_BT = torch.randint(3, 250, (2, 11), generator=generator(5))
    prompt = cuts[0]
    prefix_BT = (torch.arange(11) < prompt).expand(2, -1)
    with torch.no_grad():
        full = host(ids_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT)).logits
        cache = DynamicCache(config=host.model.config)
        context = RoutingContext(prefix_mask_BT=prefix_BT[:, :prompt])
        parts = [
            host(ids_BT[:, a:b], routing=context, past_key_values=cache).logits
            for a, b in zip((0, *cuts), (*cuts, 11), strict=True)
        ]
    close(torch.cat(parts, dim=1), full)
    assert bool(context.streams) == (adapter.streams or adapter.reads_base_output)


@ADAPTERS
def test_the_suffix_changes_nothing_before_it(host: AdapterHost, config: AdapterConfig) -> None:
    add(host, config)
    batch = batch_of()
    first = logits(host, batch)
    changed = batch.input_ids_BT.clone()
    changed[~batch.prefix_mask_BT] = 7
    with torch.no_grad():
        second = host(changed, batch.attention_mask_BT, routing=batch.routing()).logits
    close(second[batch.prefix_mask_BT], first[batch.prefix_mask_BT])


@ADAPTERS
def test_batch_order_and_padding_do_not_matter(host: AdapterHost, config: AdapterConfig) -> None:
    add(host, config)
    encoded = rows()
    together = logits(host, pad(encoded, pad_id=PAD))
    backwards = logits(host, pad(encoded[::-1], pad_id=PAD)).flip(0)
    for i, row in enumerate(encoded):
        alone = logits(host, pad([row], pad_id=PAD))
        close(together[i, : row.length], alone[0])
        close(backwards[i, : row.length], alone[0])


@ADAPTERS
def test_strength_zero_is_the_base_and_strength_can_vary_by_row(
    host: AdapterHost, config: AdapterConfig
) -> None:
    batch = batch_of()
    base = logits(host, batch)
    add(host, config)
    full = logits(host, batch)
    assert torch.equal(logits(host, batch, strength=0.0), base)
    assert torch.equal(logits(host, batch, strength=torch.zeros(4)), base)
    close(logits(host, batch, strength=torch.ones(4)), full)
    mixed = logits(host, batch, strength=torch.tensor([1.0, 0.0, 0.5, 1.0]))
    close(mixed[0], full[0])
    assert torch.equal(mixed[1], base[1])
    assert not torch.allclose(mixed[2], full[2], atol=1e-3)
    by_position = torch.ones(batch.input_ids_BT.shape)
    close(logits(host, batch, strength=by_position), full)


@ADAPTERS
def test_save_and_load_are_exact(
    bases: dict[str, BaseModel], config: AdapterConfig, tmp_path: Path
) -> None:
    host = AdapterHost(bases["llama"])
    add(host, config)
    batch = batch_of()
    before = logits(host, batch)
    save_adapter(host, "tested", tmp_path / "adapter")
    host.detach()
    fresh = AdapterHost(bases["llama"])
    load_adapter(fresh, "again", tmp_path / "adapter")
    fresh.use("again")
    assert torch.equal(logits(fresh, batch), before)
    fresh.detach()


@ADAPTERS
def test_gradients_reach_only_the_adapter(host: AdapterHost, config: AdapterConfig) -> None:
    adapter = add(host, config)
    batch = batch_of()
    if adapter.gradient_free:
        assert not host.parameter_groups(1e-3)
        assert not target_loss(host, batch, batch.routing()).requires_grad
        return
    target_loss(host, batch, batch.routing()).backward()
    trained = {id(p) for p in adapter.trainable()}
    for parameter in host.parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained)
    for parameter in adapter.trainable():
        assert bool((parameter.grad != 0).any())


@ADAPTERS
def test_parameter_and_flop_counts_are_exact(host: AdapterHost, config: AdapterConfig) -> None:
    batch = batch_of()
    shape = {"batch": batch.input_ids_BT.shape[0], "seq_len": batch.input_ids_BT.shape[1]}
    with torch.no_grad(), FlopCounterMode(display=False) as base_counter:
        logits(host, batch)
    adapter = add(host, config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits(host, batch)
    added = counter.get_total_flops() - base_counter.get_total_flops()
    passes = host.base.forward_flops(**shape, head=False) if adapter.reads_base_output else 0
    assert adapter.forward_flops(**shape) + passes == added
    assert host.forward_flops("tested", **shape) == counter.get_total_flops()
    assert count_parameters(config, host.base) == host.num_trainable("tested")


@ADAPTERS
def test_gradient_checkpointing_gives_the_same_gradients(
    folders: dict[str, Path], config: AdapterConfig
) -> None:
    """Other routing follows before the backward: each forward is recomputed as it was."""
    if adapter_class(config.kind).gradient_free:
        pytest.skip("it takes no gradient")
    gradients = []
    for checkpointing in (False, True):
        host = AdapterHost(load_base(folders["llama"]))
        adapter = add(host, config)
        if checkpointing:
            host.enable_gradient_checkpointing()
        batch, other = batch_of(4), batch_of(3)
        loss = target_loss(host, batch, batch.routing())
        loss = loss + target_loss(host, other, other.routing(strength=0.5))
        host.use("expert_0")
        target_loss(host, other, other.routing())
        loss.backward()
        gradients.append([p.grad.clone() for p in adapter.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-7)


def given_codes(adapter: Adapter, context: RoutingContext) -> list[Tensor | None]:
    """What a naive reference takes beside x and y: the sequence code, then the causal one."""
    codes: list[Tensor | None] = []
    if adapter.feature_layer is not None:
        codes.append(context.cache["tested"] if adapter.reads_prompt else None)
    if adapter.streams:
        codes.append(torch.stack(list(adapter.state.causal_codes), dim=2))
    return codes


@ADAPTERS
def test_the_naive_reference_agrees(host: AdapterHost, config: AdapterConfig) -> None:
    adapter = add(host, config)
    batch = batch_of(3)
    context = batch.routing(strength=torch.tensor([1.0, 0.3, 2.0]))
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    hooks = []
    for index, layer in enumerate(adapter.layers):

        def keep(module: object, args: tuple[Tensor, Tensor], out: Tensor, i: int = index) -> None:
            seen[i] = (args[0], args[1], out)

        hooks.append(layer.register_forward_hook(keep))
    with torch.no_grad():
        host(batch.input_ids_BT, batch.attention_mask_BT, routing=context)
        for index in (0, len(adapter.layers) - 1):
            x_BTI, y_BTO, out_BTO = seen[index]
            codes = given_codes(adapter, context)
            slow = naive_module(config.kind).site_output(adapter, index, x_BTI, y_BTO, *codes)
            close(out_BTO, slow, 2e-6)
    for hook in hooks:
        hook.remove()


@ADAPTERS
def test_detach_puts_the_original_modules_back(
    bases: dict[str, BaseModel], config: AdapterConfig
) -> None:
    base = bases["llama"]
    before = dict(base.model.named_modules())
    flags = [p.requires_grad for p in base.model.parameters()]
    host = AdapterHost(base)
    add(host, config)
    assert dict(base.model.named_modules()) != before
    host.detach()
    assert dict(base.model.named_modules()) == before
    assert [p.requires_grad for p in base.model.parameters()] == flags
    assert all(linear_shape(base.model.get_submodule(s.name)) for s in base.sites("all-linear"))


@ADAPTERS
def test_adapters_stack_and_each_has_its_strength(host: AdapterHost, config: AdapterConfig) -> None:
    add(host, config)
    batch = batch_of()
    alone = logits(host, batch)
    host.use("tested", "expert_0")
    stacked = logits(host, batch)
    assert not torch.allclose(stacked, alone, atol=1e-3)
    assert torch.equal(logits(host, batch, strength={"expert_0": 0.0}), alone)
    host.use("expert_0")
    expert = logits(host, batch)
    host.use("tested", "expert_0")
    assert torch.equal(logits(host, batch, strength={"tested": 0.0}), expert)


@ADAPTERS
def test_autocast_stays_close(host: AdapterHost, config: AdapterConfig) -> None:
    adapter = add(host, config)
    batch = batch_of()
    exact = logits(host, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = target_loss(host, batch, batch.routing())
        rough = logits(host, batch).float()
    bound = 0.25 if adapter.routes_hard else 0.05  # a rounded input may choose another expert
    assert float((rough - exact).abs().mean()) < bound * float(exact.abs().mean())
    if adapter.gradient_free:
        return
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in adapter.trainable())


@pytest.fixture(scope="module")
def nf4_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = write_tiny_base(tmp_path_factory.mktemp("nf4"), layers=3, hidden_size=64, mlp_size=64)
    return quantise_base(load_base(folder))


@ADAPTERS
def test_a_bitsandbytes_base_in_nf4(nf4_base: BaseModel, config: AdapterConfig) -> None:
    """Forward, backward and cached decoding over `Linear4bit`, which stays as it is."""
    with AdapterHost(nf4_base) as host:
        batch = batch_of(2)
        before = logits(host, batch)
        adapter = add(host, config)
        full = logits(host, batch)
        assert not torch.allclose(full, before, atol=1e-3)
        close(cached(host, batch), full[batch.attention_mask_BT.bool()], 2e-5)
        assert torch.equal(logits(host, batch, strength=0.0), before)
        if not adapter.gradient_free:
            target_loss(host, batch, batch.routing()).backward()
            assert all(p.grad is not None for p in adapter.trainable())
