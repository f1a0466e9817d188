"""The kernels against plain loops, forward and backward.

On a machine without a GPU they run in Triton's interpreter, which must be chosen before Python
starts: `TRITON_INTERPRET=1 python -m pytest tests/bem/kernels`; `test_interpreted` does that.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, RoutingContext, load_base, make_config
from bem.errors import InvalidInputError
from bem.kernels import Delta, fused_delta, grouped_delta, naive
from bem.kernels.delta import weighed
from bem.testing import write_tiny_base

pytest.importorskip("triton")
GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU and not INTERPRETED else "cpu"
runs = pytest.mark.skipif(
    not (GPU or INTERPRETED), reason="kernels need a GPU, or TRITON_INTERPRET=1"
)
FORMS = ["static", "row code", "token code", "gate", "gate and code"]


def delta(
    form: str, rows: int, tokens: int, inputs: int, outputs: int, rank: int, draw: torch.Generator
) -> Delta:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(DEVICE)

    code = None
    if "code" in form:
        code = random(rows, tokens if form == "token code" else 1, rank)
    return Delta(
        y_BTO=random(rows, tokens, outputs),
        down_RI=random(rank, inputs) / inputs**0.5,
        up_OR=random(outputs, rank),
        scale=0.7,
        code_BXR=code,
        gate_RR=random(rank, rank) if "gate" in form else None,
        gate_bias_R=random(rank) if "gate" in form else None,
    )


def inputs_of(rows: int, tokens: int, inputs: int, draw: torch.Generator) -> Tensor:
    return torch.randn(rows, tokens, inputs, generator=draw).to(DEVICE)


@runs
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "tokens"), [(3, 1), (2, 40)], ids=["few", "many"])
def test_the_kernel_is_the_loop(form: str, rows: int, tokens: int) -> None:
    """Few tokens: one launch; many: two. No size is a multiple of a block."""
    draw = torch.Generator().manual_seed(0)
    x_BTI = inputs_of(rows, tokens, 70, draw)
    made = delta(form, rows, tokens, 70, 130, 5, draw)
    cpu = Delta(
        **{
            name: value.cpu() if isinstance(value, Tensor) else value
            for name in Delta.__dataclass_fields__
            for value in [getattr(made, name)]
        }
    )
    slow = naive.fused_delta(x_BTI.cpu(), cpu)
    torch.testing.assert_close(fused_delta(x_BTI, made).cpu(), slow, rtol=1e-5, atol=1e-5)


@runs
@pytest.mark.parametrize(("rows", "tokens"), [(2, 3), (2, 40)], ids=["few", "many"])
def test_q_k_and_v_at_once_are_each_alone(rows: int, tokens: int) -> None:
    draw = torch.Generator().manual_seed(1)
    x_BTI = inputs_of(rows, tokens, 48, draw)
    group = [delta("row code", rows, tokens, 48, outputs, 4, draw) for outputs in (160, 40, 200)]
    together = grouped_delta(x_BTI, group)
    for one, out in zip(group, together, strict=True):
        torch.testing.assert_close(out, fused_delta(x_BTI, one), rtol=0, atol=1e-6)
        assert out.shape == one.y_BTO.shape
        assert not torch.allclose(out, one.y_BTO)


@runs
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_torch(form: str) -> None:
    draw = torch.Generator().manual_seed(2)
    x_BTI = inputs_of(2, 7, 33, draw)
    group = [delta(form, 2, 7, 33, outputs, 4, draw) for outputs in (20, 31)]
    leaves = [x_BTI] + [
        value
        for one in group
        for name in Delta.__dataclass_fields__
        if isinstance(value := getattr(one, name), Tensor)
    ]
    for leaf in leaves:
        leaf.requires_grad_(True)
    weights = [torch.randn(one.y_BTO.shape, generator=draw).to(DEVICE) for one in group]

    def plain(one: Delta) -> Tensor:
        w_BTR = weighed(
            x_BTI,
            one.down_RI,
            one.code_BXR,
            one.gate_RR,
            one.gate_bias_R,
            compute=torch.float32,
        )
        return one.y_BTO + one.scale * w_BTR @ one.up_OR.T

    def gradients(outs: list[Tensor]) -> tuple[Tensor, ...]:
        total = torch.stack([(o * w).sum() for o, w in zip(outs, weights, strict=True)]).sum()
        return torch.autograd.grad(total, leaves)

    wanted = gradients([plain(one) for one in group])
    for mine, theirs in zip(gradients(grouped_delta(x_BTI, group)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@runs
def test_half_precision_stays_close_and_frozen_factors_get_no_gradient() -> None:
    """bfloat16 on a GPU; float16 in the interpreter, whose `tl.dot` takes bfloat16 for integers."""
    half = torch.float16 if INTERPRETED else torch.bfloat16
    draw = torch.Generator().manual_seed(3)
    x_BTI = inputs_of(2, 5, 64, draw)
    exact = delta("gate", 2, 5, 64, 64, 8, draw)
    rough = Delta(
        **{
            name: value.to(half) if isinstance(value, Tensor) else value
            for name in Delta.__dataclass_fields__
            for value in [getattr(exact, name)]
        }
    )
    wanted = fused_delta(x_BTI, exact)
    made = fused_delta(x_BTI.to(half), rough)
    assert made.dtype == half
    assert float((made.float() - wanted).abs().mean()) < 0.02 * float(wanted.abs().mean())
    rough.up_OR.requires_grad_(True)
    fused_delta(x_BTI.to(half), rough).float().sum().backward()
    assert rough.up_OR.grad is not None
    assert rough.down_RI.grad is None


HOSTED = [
    ("lora", {}),
    ("generated", {"code": "sequence", "trust_radius": 0.5}),
    ("generated", {"code": "token"}),
    ("generated", {"code": "hierarchy", "chunk_size": 3}),
]


@runs
@pytest.mark.parametrize(("kind", "fields"), HOSTED, ids=lambda value: str(value))
def test_a_host_that_fuses_gives_the_same_logits_and_gradients(
    kind: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    host = AdapterHost(load_base(write_tiny_base(tmp_path, layers=1), device=DEVICE))
    draw = torch.Generator().manual_seed(6)
    adapter = host.add("a", make_config(kind, rank=3, **fields), generator=draw)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw).to(DEVICE))
    host.use("a")
    ids_BT = torch.randint(3, 250, (2, 8), generator=draw).to(DEVICE)
    found = []
    for fused in (False, True):
        host.fuse(fused)
        context = RoutingContext(
            prefix_mask_BT=(torch.arange(8, device=DEVICE) < 4).expand(2, 8), strength=0.8
        )
        logits_BTV = host(ids_BT, routing=context).logits
        logits_BTV.log_softmax(-1)[..., 7].mean().backward()
        found.append([logits_BTV.detach(), *[p.grad for p in adapter.parameters()]])
        host.zero_grad(set_to_none=True)
    for plain, made in zip(*found, strict=True):
        assert plain is not None
        torch.testing.assert_close(made, plain, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(*pair) for pair in zip(*found, strict=True))  # another path


def test_what_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(4)
    x_BTI = torch.randn(1, 2, 8, generator=draw)
    made = Delta(
        y_BTO=torch.zeros(1, 2, 6),
        down_RI=torch.zeros(3, 8),
        up_OR=torch.zeros(6, 3),
        scale=1.0,
    )
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InvalidInputError, match="CUDA device, not on 'cpu'"):
        fused_delta(x_BTI, made)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InvalidInputError, match="4 linears in a group; from 1 to 3"):
        grouped_delta(x_BTI, [made] * 4)
    with pytest.raises(InvalidInputError, match="read one x, have one rank"):
        grouped_delta(torch.zeros(1, 2, 9), [made])


@pytest.mark.parametrize("rank_block", [16, 32, 64, 128])
@pytest.mark.parametrize("item_bytes", [2, 4])
def test_blocks_fit_where_rank_or_precision_want_more(rank_block: int, item_bytes: int) -> None:
    programs = import_module("bem.kernels.programs")
    for blocks in (programs.FEW, programs.SHRINK):
        made = programs.fitting(blocks, rank_block, item_bytes)
        staged = made.BI * (made.BM + rank_block) * item_bytes * made.num_stages
        assert made.BI == 16 or staged <= programs.STAGED_BYTES
        assert 16 <= made.BI <= blocks.BI
        assert replace(made, BI=blocks.BI) == blocks
    assert programs.fitting(programs.FEW, 16, 2) == programs.FEW


on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU or INTERPRETED, reason="no CUDA device is at hand"),
]
SHAPES = [(1, 1, 1024), (8, 1, 4096), (3, 21, 1000), (5, 13, 520), (2, 512, 4096)]
"""Rows, tokens, inputs; decoding, both sides of the limit of one launch, and prefill."""


def in_float64(one: Delta, x_BTI: Tensor) -> tuple[Delta, Tensor]:
    """The same numbers in float64, on the device."""
    fields = {name: getattr(one, name) for name in Delta.__dataclass_fields__}
    exact = {k: v.double() if isinstance(v, Tensor) else v for k, v in fields.items()}
    return Delta(**exact), x_BTI.double()


def by_torch(x_BTI: Tensor, one: Delta) -> Tensor:
    w_BTR = weighed(
        x_BTI, one.down_RI, one.code_BXR, one.gate_RR, one.gate_bias_R, compute=x_BTI.dtype
    )
    return one.y_BTO + one.scale * w_BTR @ one.up_OR.T


def distance(made: Tensor, wanted: Tensor) -> float:
    assert bool(made.isfinite().all())
    return float((made.double() - wanted).norm() / wanted.norm())


class TestOnAGpu:
    """At the sizes of a model, against torch in float64 on the same numbers."""

    pytestmark = on_a_gpu

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        ("dtype", "rank", "bound"),
        [
            (torch.bfloat16, 8, 6e-3),
            (torch.bfloat16, 40, 6e-3),
            (torch.float16, 8, 2e-3),
            (torch.float32, 8, 2e-6),
        ],
        ids=str,
    )
    def test_forward(self, form: str, dtype: torch.dtype, rank: int, bound: float) -> None:
        """y is small here, so that the delta is what is measured."""
        draw = torch.Generator().manual_seed(5)
        for rows, tokens, inputs in SHAPES:
            x_BTI = inputs_of(rows, tokens, inputs, draw).to(dtype)
            one = delta(form, rows, tokens, inputs, inputs + 8, rank, draw)
            one = Delta(
                **{
                    name: value.to(dtype) if isinstance(value, Tensor) else value
                    for name in Delta.__dataclass_fields__
                    for value in [getattr(one, name)]
                }
            )
            exact, x_exact = in_float64(one, x_BTI)
            poison = torch.full_like(one.y_BTO, torch.nan)
            del poison  # the output takes its memory: what is not written stays NaN
            made = fused_delta(x_BTI, one)
            assert made.dtype == dtype
            assert distance(made, by_torch(x_exact, exact)) < bound

    @pytest.mark.parametrize("form", FORMS)
    def test_gradients_in_bfloat16(self, form: str) -> None:
        draw = torch.Generator().manual_seed(6)
        x_BTI = inputs_of(2, 96, 1024, draw).bfloat16()
        group = [delta(form, 2, 96, 1024, outputs, 8, draw) for outputs in (1024, 256)]
        group = [
            Delta(
                **{
                    name: value.bfloat16() if isinstance(value, Tensor) else value
                    for name in Delta.__dataclass_fields__
                    for value in [getattr(one, name)]
                }
            )
            for one in group
        ]
        exact = [in_float64(one, x_BTI)[0] for one in group]
        x_exact = x_BTI.double()

        def gradients(x: Tensor, ones: list[Delta], outs: Any) -> list[Tensor]:
            leaves = [x] + [
                value
                for one in ones
                for name in Delta.__dataclass_fields__
                if isinstance(value := getattr(one, name), Tensor)
            ]
            for leaf in leaves:
                leaf.requires_grad_(True)
            total = torch.stack([out.float().square().mean() for out in outs()]).sum()
            return list(torch.autograd.grad(total, leaves))

        wanted = gradients(x_exact, exact, lambda: [by_torch(x_exact, one) for one in exact])
        made = gradients(x_BTI, group, lambda: grouped_delta(x_BTI, group))
        for mine, theirs in zip(made, wanted, strict=True):
            assert distance(mine, theirs) < 2e-2

    def test_autocast_computes_in_bfloat16_and_keeps_the_weights_precision(self) -> None:
        draw = torch.Generator().manual_seed(7)
        x_BTI = inputs_of(2, 100, 512, draw)
        one = delta("token code", 2, 100, 512, 768, 8, draw)
        one.down_RI.requires_grad_(True)
        wanted = by_torch(*reversed(in_float64(one, x_BTI)))
        with torch.autocast("cuda", torch.bfloat16):
            made = fused_delta(x_BTI, one)
            made.float().square().mean().backward()
        assert distance(made.detach(), wanted.detach()) < 1e-2
        assert one.down_RI.grad is not None
        assert one.down_RI.grad.dtype == torch.float32

    def test_two_runs_give_the_same_bits(self) -> None:
        draw = torch.Generator().manual_seed(8)
        x_BTI = inputs_of(4, 300, 2048, draw).bfloat16()
        one = delta("row code", 4, 300, 2048, 2048, 8, draw)
        first = fused_delta(x_BTI, one)
        assert all(torch.equal(fused_delta(x_BTI, one), first) for _ in range(5))
