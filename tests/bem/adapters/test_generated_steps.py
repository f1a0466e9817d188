"""Decode steps of a generated BEM: one product for z and gate, a row's code inside `up`, and
nothing kept that is no longer so.

Legend: B rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.adapters.generated import GeneratedAdapter, naive
from bem.adapters.generated.layer import ContextCodeLayer, TokenCodeLayer

CODES = ("sequence", "chunk", "token", "hierarchy")


def hosted(base: BaseModel, code: str, **fields: Any) -> tuple[AdapterHost, GeneratedAdapter]:
    host, draw = AdapterHost(base), torch.Generator().manual_seed(3)
    adapter = host.add("g", make_config("generated", rank=3, code=code, **fields), generator=draw)
    host.use("g")
    assert isinstance(adapter, GeneratedAdapter)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return host, adapter


def stirred(base: BaseModel, code: str) -> GeneratedAdapter:
    return hosted(base, code)[1]


class Site:
    """The first site of an adapter, a token of each row, and codes in its state."""

    def __init__(self, adapter: GeneratedAdapter, rows: int) -> None:
        draw = torch.Generator().manual_seed(4)
        config, site = adapter.config, adapter.sites[0]
        self.adapter = adapter
        self.x_B1I = torch.randn(rows, 1, site.in_features, generator=draw)
        self.y_B1O = torch.randn(rows, 1, site.out_features, generator=draw)
        codes_BSR = torch.randn(rows, len(adapter.sites), config.rank, generator=draw)
        causal_B1SR = torch.rand(rows, 1, len(adapter.sites), config.rank, generator=draw)
        self.codes_BSR = codes_BSR if config.reads_prompt else None
        self.causal_B1SR = causal_B1SR if config.streams else None
        adapter.state.codes = adapter.spread(codes_BSR) if config.reads_prompt else ()
        adapter.state.causal_codes = causal_B1SR.unbind(2) if config.streams else ()

    @property
    def layer(self) -> ContextCodeLayer | TokenCodeLayer:
        layer = self.adapter.layers[0]
        assert isinstance(layer, ContextCodeLayer | TokenCodeLayer)
        return layer

    def step(self) -> Tensor:
        """As decode steps run."""
        with torch.no_grad():
            made: Tensor = self.layer(self.x_B1I, self.y_B1O)
        assert self.keeps()
        return made

    def keeps(self) -> bool:
        return self.layer._kept._made is not None

    def slow(self) -> Tensor:
        """As loops run, whatever is kept."""
        with torch.no_grad():
            return naive.site_output(
                self.adapter, 0, self.x_B1I, self.y_B1O, self.codes_BSR, self.causal_B1SR
            )


def close(made: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("code", CODES)
def test_a_step_equals_loops_and_leaves_what_it_is_given(
    llama: BaseModel, code: str, rows: int
) -> None:
    site = Site(stirred(llama, code), rows)
    x_B1I, y_B1O = site.x_B1I.clone(), site.y_B1O.clone()
    for strength in (1.0, 0.7, -0.5):
        site.adapter.state.strength = strength
        wanted = site.slow()
        close(site.step(), wanted)
        close(site.step(), wanted)
    assert torch.equal(site.x_B1I, x_B1I)
    assert torch.equal(site.y_B1O, y_B1O)


def optimizer_step(layer: torch.nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(layer.parameters(), lr=0.1).step()


def edit(layer: torch.nn.Module) -> None:
    with torch.no_grad():
        layer.get_parameter("up_OR").mul_(1.5)


def load(layer: torch.nn.Module, assign: bool = False) -> None:
    layer.load_state_dict({k: 1.5 * v for k, v in layer.state_dict().items()}, assign=assign)


def replace(layer: torch.nn.Module) -> None:
    layer.register_parameter("down_RI", torch.nn.Parameter(1.5 * layer.get_parameter("down_RI")))


CHANGES: dict[str, Callable[[torch.nn.Module], Any]] = {
    "an optimizer's step": optimizer_step,
    "in place": edit,
    "load_state_dict": load,
    "load_state_dict, assigned": lambda layer: load(layer, assign=True),
    "another parameter": replace,
    "rounded by .to": lambda layer: layer.to(torch.bfloat16).to(torch.float32),
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("code", ["sequence", "hierarchy"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_steps_is_noticed(
    llama: BaseModel, change: str, code: str, rows: int
) -> None:
    site = Site(stirred(llama, code), rows)
    before = site.step()
    CHANGES[change](site.layer)
    after = site.step()
    assert not torch.equal(after, before)
    close(after, site.slow())


def test_other_codes_are_noticed(llama: BaseModel) -> None:
    adapter = stirred(llama, "sequence")
    first, second = Site(adapter, 1), Site(adapter, 1)
    assert second.codes_BSR is not None
    before = first.step()
    second.codes_BSR.mul_(2.0)
    adapter.state.codes = adapter.spread(second.codes_BSR)
    after = second.step()
    assert not torch.equal(after, before)
    close(after, second.slow())


def test_what_torch_does_not_count_lasts_no_longer_than_a_generation(llama: BaseModel) -> None:
    """A fused optimizer changes values and no version: any forward but a step begins anew."""
    site = Site(stirred(llama, "token"), 2)
    before = site.step()
    for parameter in site.layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(site.layer.parameters(), lr=0.1, fused=True).step()
    with torch.no_grad():
        site.layer(site.x_B1I.expand(-1, 2, -1), site.y_B1O.expand(-1, 2, -1))
    assert not site.keeps()
    after = site.step()
    assert not torch.equal(after, before)
    close(after, site.slow())
    site.layer(site.x_B1I, site.y_B1O)
    assert not site.keeps()


def test_a_copy_keeps_nothing_and_an_inference_tensor_is_never_kept(llama: BaseModel) -> None:
    site = Site(stirred(llama, "token"), 1)
    site.step()
    assert copy.deepcopy(site.layer)._kept._made is None
    with torch.inference_mode():
        site.layer(site.x_B1I, site.y_B1O)
        assert site.keeps()
        replace(site.layer)
        made = site.layer(site.x_B1I, site.y_B1O)
        assert not site.keeps()
    close(made, site.slow())


@pytest.mark.parametrize("code", CODES)
def test_recorded_mapped_or_weighed_by_row_it_takes_the_long_way(
    llama: BaseModel, code: str
) -> None:
    """To the same result."""
    adapter = stirred(llama, code)
    site, state = Site(adapter, 2), adapter.state
    plain = site.step()
    asked: dict[str, Any] = {
        "trace": [],
        "site_codes": {},
        "code_map": lambda code: code,
        "strength_rows": torch.ones(2, 1, 1),
    }
    for name, value in asked.items():
        setattr(state, name, value)
        with torch.no_grad():
            close(site.layer(site.x_B1I, site.y_B1O), plain)
        assert not site.keeps()
        setattr(state, name, None)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        site.layer(site.x_B1I, site.y_B1O)
        assert not site.keeps()
    assert torch.equal(site.step(), plain)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("code", CODES)
def test_decoding_equals_the_full_forward(llama_folder: Path, code: str, rows: int) -> None:
    """In double precision, so that rounding is no excuse."""
    base = load_base(llama_folder, dtype=torch.float64)
    chunks = {"chunk_size": 3, "chunk_decay": 0.5} if code in ("chunk", "hierarchy") else {}
    host, adapter = hosted(base, code, **chunks)
    adapter.double()
    ids_BT = torch.randint(3, 250, (rows, 14), generator=torch.Generator().manual_seed(0))
    prefix_BT = (torch.arange(14) < 4).expand(rows, -1)
    full = host(ids_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT)).logits
    cache = DynamicCache(config=base.model.config)
    context = RoutingContext(prefix_mask_BT=prefix_BT[:, :4])
    parts = [host(ids_BT[:, :4], routing=context, past_key_values=cache).logits]
    for at in range(4, 14):
        step = host(ids_BT[:, at : at + 1], routing=context, past_key_values=cache)
        parts.append(step.logits)
    assert all(layer._kept._made is not None for layer in adapter.layers)
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-11, atol=1e-11)
