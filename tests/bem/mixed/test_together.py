"""Linears that read one tensor train as one node from the second forward on: equal gradients."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.mixed.block_linear import BlockSite
from bem.mixed.together import Call, Readers, Together

NAMES, LAYERS = ("a", "b"), 2
ROWS = ("a", "a", "b", "b")
KINDS = {"lora": {}, "generated": {"code": "sequence"}}
EACH, GROUPED = 7, 4
"""Nodes a layer: of each linear alone; query, key and value as one, gate and up as one."""


def host_with(folder: Path, kind: str, targets: tuple[str, ...] | None = None) -> AdapterHost:
    host = AdapterHost(load_base(folder)).double()
    draw = torch.Generator().manual_seed(0)
    options = dict(KINDS[kind]) | ({} if targets is None else {"targets": targets})
    for name in NAMES:
        adapter = host.add(name, make_config(kind, rank=2, **options), generator=draw)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return host.double()


def forward(host: AdapterHost) -> Tensor:
    ids_BT = torch.randint(3, 250, (4, 5), generator=torch.Generator().manual_seed(1))
    prefix_BT = (torch.arange(5) < 3).expand(4, 5)
    logits: Tensor = host(
        ids_BT, routing=RoutingContext(rows=ROWS, prefix_mask_BT=prefix_BT)
    ).logits
    return logits


def nodes(of: Tensor) -> int:
    """Of the graph, those that are a linear with its deltas."""
    seen, todo = set(), [of.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return sum("BlockLinears" in type(node).__name__ for node in seen)


def gradients(host: AdapterHost, logits: Tensor) -> dict[str, Tensor]:
    host.adapters.zero_grad()
    logits.square().sum().backward()
    return {n: p.grad.clone() for n, p in host.adapters.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_one_node_for_those_that_read_one_tensor(llama_folder: Path, kind: str) -> None:
    host = host_with(llama_folder, kind)
    first, second = forward(host), forward(host)
    assert nodes(first) == EACH * LAYERS
    assert nodes(second) == GROUPED * LAYERS
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    before, after = gradients(host, first), gradients(host, second)
    assert before.keys() == after.keys()
    torch.testing.assert_close(before, after, rtol=1e-10, atol=1e-12)


def test_what_is_computed_again_makes_the_same_nodes(llama_folder: Path) -> None:
    """A checkpointed backward after later forwards have learnt: torch compares what is saved."""
    host = host_with(llama_folder, "lora")
    host.enable_gradient_checkpointing()
    outs = [forward(host) for _ in range(3)]
    found = [gradients(host, logits) for logits in outs]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-10, atol=1e-12)


def test_a_forward_holds_nothing_once_the_next_has_come(llama_folder: Path) -> None:
    """No cycle: what a step made must not wait for the collector."""
    host = host_with(llama_folder, "generated")
    gc.collect()
    gc.disable()
    try:
        alive = []
        for _ in range(3):
            forward(host)
            assert host._mixed is not None
            alive.append(weakref.ref(host._mixed._groups[0]._blocks[0].together))
        assert [ref() is not None for ref in alive] == [False, False, True]
    finally:
        gc.enable()


def test_other_targets_learn_on_their_own(llama_folder: Path) -> None:
    """An adapter of fewer linears numbers them otherwise; it follows one of all linears."""
    host = host_with(llama_folder, "lora")
    forward(host), forward(host)
    draw = torch.Generator().manual_seed(5)
    for name in ("c", "d"):
        host.add(name, make_config("lora", rank=2, targets=("q_proj", "v_proj")), generator=draw)
    host.double()
    ids_BT = torch.randint(3, 250, (2, 5), generator=draw)
    counts = []
    for _ in range(2):
        logits = host(ids_BT, routing=RoutingContext(rows=("c", "d"))).logits
        counts.append(nodes(logits))
    assert counts == [2 * LAYERS, LAYERS]
    assert nodes(forward(host)) == GROUPED * LAYERS


@pytest.fixture
def linears() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(3, 3).requires_grad_(False) for _ in range(2)]


def test_a_call_out_of_turn_gets_its_own(linears: list[nn.Linear]) -> None:
    """What was learnt may not hold: then an output that was made ahead is not used elsewhere."""
    down, up = torch.ones(1, 3, requires_grad=True), torch.ones(3, 1, requires_grad=True)

    def site(call: Call, x_BTI: Tensor) -> BlockSite:
        weight_B11 = torch.ones(len(x_BTI), 1, 1)
        return BlockSite(
            base=linears[call.index], weight_BXR=weight_B11, downs_RI=[down], ups_OR=[up]
        )

    calls = [Call(index=i, base=linear, down="d", up="u") for i, linear in enumerate(linears)]
    readers: Readers = {calls[0]: (calls[1],)}
    together = Together(readers, site)
    x_BTI, other_BTI = torch.ones(1, 2, 3), torch.zeros(1, 2, 3)
    together(calls[0], x_BTI)
    out = together(calls[1], other_BTI)
    assert out is not None
    torch.testing.assert_close(out, linears[1](other_BTI))


@pytest.mark.parametrize("tensors", [1, 2])
def test_a_replaced_linear_is_learnt_anew(linears: list[nn.Linear], tensors: int) -> None:
    """Also where nothing is read after it."""
    down, up = torch.ones(1, 3, requires_grad=True), torch.ones(3, 1, requires_grad=True)
    asked: list[nn.Module] = []

    def site(call: Call, x_BTI: Tensor) -> BlockSite:
        asked.append(call.base)
        base = call.base
        assert isinstance(base, nn.Linear)
        weight_B11 = torch.ones(len(x_BTI), 1, 1)
        return BlockSite(base=base, weight_BXR=weight_B11, downs_RI=[down], ups_OR=[up])

    first, second = (Call(index=i, base=b, down="d", up="u") for i, b in enumerate(linears))
    other = Call(index=1, base=nn.Linear(3, 3).requires_grad_(False), down="d", up="u")
    readers: Readers = {first: (second,)}
    for _ in range(2):
        asked.clear()
        together = Together(readers, site)
        for x_BTI in (torch.ones(1, 2, 3), torch.zeros(1, 2, 3))[:tensors]:
            out = [together(call, x_BTI) for call in (first, other)]
            assert out[1] is not None
            torch.testing.assert_close(out[1], other.base(x_BTI) + x_BTI.sum(-1, keepdim=True))
    assert second.base not in asked
    assert readers[first] == (other,)
