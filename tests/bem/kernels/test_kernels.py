"""The kernels against plain loops, forward and backward.

On a machine without a GPU they run in Triton's interpreter, which must be chosen before Python
starts: `TRITON_INTERPRET=1 python -m pytest tests/bem/kernels`; `test_interpreted` does that.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import os
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


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no CUDA device is at hand")
def test_on_a_gpu_at_the_sizes_of_a_model() -> None:
    """bf16, d = 4,096, against torch's products in float32."""
    draw = torch.Generator().manual_seed(5)
    for rows, tokens in ((8, 1), (2, 512)):
        x_BTI = inputs_of(rows, tokens, 4096, draw).bfloat16()
        one = delta("row code", rows, tokens, 4096, 4096, 8, draw)
        w_BTR = weighed(x_BTI, one.down_RI, one.code_BXR, None, None, compute=torch.float32)
        wanted = one.y_BTO + one.scale * w_BTR @ one.up_OR.T
        made = fused_delta(x_BTI, one)
        assert float((made - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())
