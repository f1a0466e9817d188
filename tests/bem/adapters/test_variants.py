"""V1 to V4 beyond the contract: what each can and cannot do.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.adapters.dynamic_rank.layer import group_of, k_hot
from bem.adapters.kronecker.layer import split
from bem.errors import InvalidInputError
from bem.interfaces import Site
from bem.testing import write_tiny_base


def stirred(host: AdapterHost, kind: str, **fields: Any) -> Any:
    draw = torch.Generator().manual_seed(3)
    adapter = host.add("v", make_config(kind, **fields), generator=draw)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    host.use("v")
    return adapter


def prompts(rows: int, length: int = 7) -> tuple[torch.Tensor, RoutingContext]:
    ids_BT = torch.randint(3, 250, (rows, length), generator=torch.Generator().manual_seed(0))
    prefix_BT = torch.ones(rows, length, dtype=torch.bool)
    return ids_BT, RoutingContext(prefix_mask_BT=prefix_BT, record=True)


def test_k_hot_is_hard_forward_and_a_sigmoid_backward() -> None:
    logits = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = k_hot(logits, 2)
    largest = logits.topk(2, dim=-1).values[..., -1:]
    torch.testing.assert_close(mask, (logits >= largest).float())
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((mask * weight).sum(), logits)
    p = logits.detach().sigmoid()
    torch.testing.assert_close(gradient, weight * p * (1 - p))


def test_head_groups_lie_where_the_heads_are() -> None:
    def groups(name: str, inputs: int, outputs: int) -> list[int]:
        site = Site(name=name, layer=0, in_features=inputs, out_features=outputs)
        return group_of(site, 2).tolist()

    assert groups("h.0.self_attn.q_proj", 6, 8) == [0] * 4 + [1] * 4
    assert groups("h.0.self_attn.k_proj", 6, 4) == [0] * 2 + [1] * 2
    assert groups("h.0.self_attn.o_proj", 8, 6) == [0] * 4 + [1] * 4
    assert groups("h.0.attn.c_attn", 4, 12) == ([0] * 2 + [1] * 2) * 3
    with pytest.raises(InvalidInputError, match="does not divide"):
        groups("h.0.self_attn.q_proj", 4, 7)
    with pytest.raises(InvalidInputError, match="must be larger"):
        make_config("dynamic_rank", rank=4, active_rank=4)


@torch.no_grad()
def test_prompts_choose_their_ranks_and_gate_their_heads(llama: BaseModel) -> None:
    """Shutting the gate of one group leaves that group's heads as the base made them."""
    host = AdapterHost(llama)
    fields = {"rank": 4, "active_rank": 2, "controller_width": 8}
    adapter = stirred(host, "dynamic_rank", targets=("q_proj", "o_proj"), **fields)
    ids_BT, context = prompts(12)
    host(ids_BT, routing=context)
    mask_BSR = context.cache["v"][..., :4]
    assert torch.equal(mask_BSR.sum(-1), torch.full_like(mask_BSR[..., 0], 2.0))
    assert len({tuple(row.flatten().tolist()) for row in mask_BSR}) > 3
    shut = context.cache["v"].clone()
    shut[..., 5] = 0.0
    adapter.state.codes = adapter.spread(shut[:2])
    x_BTI = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(5))
    site = next(i for i, s in enumerate(adapter.sites) if s.name.endswith("q_proj"))
    out = adapter.layers[site](x_BTI, torch.zeros(2, 3, 32))
    assert bool((out[..., :16] != 0).any())
    assert bool((out[..., 16:] == 0).all())
    site = next(i for i, s in enumerate(adapter.sites) if s.name.endswith("o_proj"))
    changed = x_BTI.clone()
    changed[..., 16:] = 9.0
    same, other = (adapter.layers[site](x, torch.zeros(2, 3, 32)) for x in (x_BTI, changed))
    assert bool((same != 0).any())
    torch.testing.assert_close(same, other)


@torch.no_grad()
def test_a_shaped_gate_that_is_shut_stays_shut(llama: BaseModel) -> None:
    """The factor multiplies: where the gate's input is 0 nothing is added, unlike any LoRA."""
    adapter = stirred(AdapterHost(llama), "gate_shaping", rank=3)
    assert {site.name.rsplit(".", 1)[-1] for site in adapter.sites} == {"gate_proj"}
    draw = torch.Generator().manual_seed(0)
    adapter.state.codes = [torch.randn(2, 1, 3, generator=draw)] * len(adapter.sites)
    x_BTI = torch.randn(2, 4, 32, generator=draw)
    y_BTO = torch.randn(2, 4, 48, generator=draw) * (torch.rand(2, 4, 48, generator=draw) < 0.5)
    out = adapter.layers[0](x_BTI, y_BTO)
    assert torch.equal(out == 0, y_BTO == 0)
    assert not torch.allclose(out, y_BTO, atol=1e-3)


def test_a_kronecker_delta_of_few_parameters_has_full_rank(llama: BaseModel) -> None:
    """Built from the layer's outputs on unit inputs and from torch.kron: the same, of full rank."""
    assert [split(n) for n in (128, 48, 7, 1)] == [(8, 16), (6, 8), (1, 7), (1, 1)]
    adapter = stirred(AdapterHost(llama), "kronecker", rank=1)
    assert {site.name.rsplit(".", 1)[-1] for site in adapter.sites} == {"down_proj"}
    layer, site = adapter.layers[0], adapter.sites[0]
    adapter.state.codes = [torch.full((1, 1, 1), 0.5)] * len(adapter.sites)
    with torch.no_grad():
        columns = layer(torch.eye(site.in_features)[None], torch.zeros(1, 48, 32))[0]
        expected = 0.5 * layer.scale * torch.kron(layer.left_RUP[0], layer.right_RVQ[0])
    torch.testing.assert_close(columns.T, expected, rtol=1e-4, atol=1e-6)
    assert int(torch.linalg.matrix_rank(expected)) == min(expected.shape)
    factors = layer.left_RUP.numel() + layer.right_RVQ.numel()
    lora_of_that_rank = min(expected.shape) * (site.in_features + site.out_features)
    assert factors < 0.05 * lora_of_that_rank


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_film_is_one_scale_and_one_shift_for_all_positions(tmp_path: Path, family: str) -> None:
    """Fitted from two positions, the line through (y, y') of a feature holds at all others."""
    adapter = stirred(AdapterHost(load_base(write_tiny_base(tmp_path, family))), "film", rank=2)
    assert len(adapter.sites) == 4
    draw = torch.Generator().manual_seed(0)
    adapter.state.codes = [torch.randn(3, 1, 2, generator=draw)] * 4
    y_BTO = torch.randn(3, 6, 32, generator=draw)
    out = adapter.layers[0](torch.randn(3, 6, 32, generator=draw), y_BTO)
    slope_BO = (out[:, 1] - out[:, 0]) / (y_BTO[:, 1] - y_BTO[:, 0])
    shift_BO = out[:, 0] - slope_BO * y_BTO[:, 0]
    expected = slope_BO[:, None] * y_BTO + shift_BO[:, None]
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-3)
    assert float((slope_BO - 1).abs().mean()) > 0.1
    assert float(shift_BO.abs().mean()) > 0.1
