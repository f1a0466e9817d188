"""The Triton programs and how they are launched. Import it only where Triton is installed.

Every program works on one linear of a group, which it finds by its place in the grid, so that q, k
and v cost the launches of one. Products accumulate in float32.

Legend: M tokens, I inputs, O outputs, R rank; the trailing letters of a block are its shape. BM,
BI, BO and BR are the sizes of a block along each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bem.kernels.delta import FEW_TOKENS


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """Sizes of a launch's blocks, its warps and the depth of its software pipeline."""

    BM: int = 16
    BI: int = 64
    BO: int = 128
    num_warps: int = 4
    num_stages: int = 3


# Measured on an H100 (benchmarks/README.md), d = 4,096: against 64 inputs, 128 outputs, 16 tokens
# one launch took 8.2 us instead of 12.2 (1 token), two took 43.6 instead of 57.6 (4,096 tokens).
FEW = Blocks(BI=256, BO=32, num_stages=4)
SHRINK = Blocks(BI=256)
EXPAND = Blocks(BM=64)
STAGED_BYTES = 64 * 1024
"""What the staged blocks of x and down may take of a multiprocessor's shared memory: it fits cards
that have less of it than an H100, and leaves room for a second program on one that has."""
EXPAND_BYTES = 128
"""A token's w at most, for 64 tokens at once: with more, up and w would want 100 KiB."""


def fitting(blocks: Blocks, rank_block: int, item_bytes: int) -> Blocks:
    """The same with fewer inputs at once, where rank and precision would not fit otherwise."""
    inputs = blocks.BI
    row = (blocks.BM + rank_block) * item_bytes * blocks.num_stages
    while inputs > 16 and inputs * row > STAGED_BYTES:
        inputs //= 2
    return replace(blocks, BI=inputs)


_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _code(code, m_M, r_R, m_in, r_in, tokens, R, per_token: tl.constexpr):
    """The code of each token: its own, or that of its row."""
    row_M = m_M if per_token else m_M // tokens
    return tl.load(
        code + row_M[:, None] * R + r_R[None, :], mask=m_in[:, None] & r_in[None, :], other=0.0
    ).to(tl.float32)


@triton.jit
def _weighed(
    x,
    down,
    code,
    gate,
    bias,
    m_M,
    m_in,
    tokens,
    inputs,
    R,
    BR: tl.constexpr,
    BI: tl.constexpr,
    coded: tl.constexpr,
    per_token: tl.constexpr,
    gated: tl.constexpr,
    compute: tl.constexpr,
):
    """w = c * (down x) of a block of tokens, (BM, BR), float32."""
    r_R = tl.arange(0, BR)
    r_in = r_R < R
    z_MR = tl.zeros((m_M.shape[0], BR), dtype=tl.float32)
    for start in range(0, inputs, BI):
        i_I = start + tl.arange(0, BI)
        i_in = i_I < inputs
        x_MI = tl.load(
            x + m_M[:, None] * inputs + i_I[None, :], mask=m_in[:, None] & i_in[None, :], other=0.0
        ).to(compute)
        down_IR = tl.load(
            down + r_R[None, :] * inputs + i_I[:, None],
            mask=r_in[None, :] & i_in[:, None],
            other=0.0,
        ).to(compute)
        z_MR += tl.dot(x_MI, down_IR, input_precision="ieee")
    w_MR = z_MR
    if gated:
        gate_RR = tl.load(
            gate + r_R[None, :] * R + r_R[:, None], mask=r_in[None, :] & r_in[:, None], other=0.0
        ).to(compute)
        bias_R = tl.load(bias + r_R, mask=r_in, other=0.0).to(tl.float32)
        logit_MR = tl.dot(z_MR.to(compute), gate_RR, input_precision="ieee") + bias_R[None, :]
        w_MR = w_MR / (1.0 + tl.exp(-logit_MR))
    if coded:
        w_MR *= _code(code, m_M, r_R, m_in, r_in, tokens, R, per_token)
    return w_MR


@triton.jit
def _add_up(
    w_MR,
    y,
    up,
    out,
    m_M,
    m_in,
    o_O,
    outputs,
    R,
    scale,
    BR: tl.constexpr,
    compute: tl.constexpr,
):
    """out = y + scale * up w at a block of tokens and outputs."""
    r_R = tl.arange(0, BR)
    o_in = o_O < outputs
    up_RO = tl.load(
        up + o_O[None, :] * R + r_R[:, None], mask=o_in[None, :] & (r_R < R)[:, None], other=0.0
    ).to(compute)
    place = m_M[:, None] * outputs + o_O[None, :]
    inside = m_in[:, None] & o_in[None, :]
    y_MO = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
    delta_MO = tl.dot(w_MR.to(compute), up_RO, input_precision="ieee")
    tl.store(out + place, (y_MO + scale * delta_MO).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "tokens"])
def _few(
    x, y0, y1, y2, out0, out1, out2, down0, down1, down2, up0, up1, up2,
    code0, code1, code2, gate0, gate1, gate2, bias0, bias1, bias2,
    scale0, scale1, scale2, outputs0, outputs1, outputs2, blocks0, blocks1,
    M, tokens, inputs, R,
    BM: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
    coded: tl.constexpr, per_token: tl.constexpr, gated: tl.constexpr, compute: tl.constexpr,
    linears: tl.constexpr,
):  # fmt: skip
    """Shrink, code and expand in one; grid: blocks of tokens, blocks of outputs of all linears."""
    block = tl.program_id(1)
    y, out, down, up, code, gate, bias = y0, out0, down0, up0, code0, gate0, bias0
    outputs, scale, first = outputs0, scale0, 0
    if linears > 1:
        if block >= blocks0:
            y, out, down, up, code, gate, bias = y1, out1, down1, up1, code1, gate1, bias1
            outputs, scale, first = outputs1, scale1, blocks0
    if linears > 2:
        if block >= blocks0 + blocks1:
            y, out, down, up, code, gate, bias = y2, out2, down2, up2, code2, gate2, bias2
            outputs, scale, first = outputs2, scale2, blocks0 + blocks1
    m_M = tl.program_id(0) * BM + tl.arange(0, BM)
    m_in = m_M < M
    w_MR = _weighed(
        x, down, code, gate, bias, m_M, m_in, tokens, inputs, R,
        BR, BI, coded, per_token, gated, compute,
    )  # fmt: skip
    o_O = (block - first) * BO + tl.arange(0, BO)
    _add_up(w_MR, y, up, out, m_M, m_in, o_O, outputs, R, scale, BR, compute)


@triton.jit(do_not_specialize=["M", "tokens"])
def _shrink(
    x, w, down0, down1, down2, code0, code1, code2, gate0, gate1, gate2, bias0, bias1, bias2,
    M, tokens, inputs, R,
    BM: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr,
    coded: tl.constexpr, per_token: tl.constexpr, gated: tl.constexpr, compute: tl.constexpr,
    linears: tl.constexpr,
):  # fmt: skip
    """w of every linear, (linears, M, R) float32; grid: blocks of tokens, linears."""
    linear = tl.program_id(1)
    down, code, gate, bias = down0, code0, gate0, bias0
    if linears > 1:
        if linear == 1:
            down, code, gate, bias = down1, code1, gate1, bias1
    if linears > 2:
        if linear == 2:
            down, code, gate, bias = down2, code2, gate2, bias2
    m_M = tl.program_id(0) * BM + tl.arange(0, BM)
    m_in = m_M < M
    w_MR = _weighed(
        x, down, code, gate, bias, m_M, m_in, tokens, inputs, R,
        BR, BI, coded, per_token, gated, compute,
    )  # fmt: skip
    r_R = tl.arange(0, BR)
    place = (linear * M + m_M[:, None]) * R + r_R[None, :]
    tl.store(w + place, w_MR, mask=m_in[:, None] & (r_R < R)[None, :])


@triton.jit(do_not_specialize=["M"])
def _expand(
    w, y0, y1, y2, out0, out1, out2, up0, up1, up2,
    scale0, scale1, scale2, outputs0, outputs1, outputs2, blocks0, blocks1, M, R,
    BM: tl.constexpr, BR: tl.constexpr, BO: tl.constexpr, compute: tl.constexpr,
    linears: tl.constexpr,
):  # fmt: skip
    """out = y + scale * up w; grid: blocks of tokens, blocks of outputs of all linears."""
    block = tl.program_id(1)
    y, out, up, outputs, scale, first, linear = y0, out0, up0, outputs0, scale0, 0, 0
    if linears > 1:
        if block >= blocks0:
            y, out, up, outputs, scale, first, linear = y1, out1, up1, outputs1, scale1, blocks0, 1
    if linears > 2:
        if block >= blocks0 + blocks1:
            y, out, up, outputs, scale, linear = y2, out2, up2, outputs2, scale2, 2
            first = blocks0 + blocks1
    m_M = tl.program_id(0) * BM + tl.arange(0, BM)
    m_in = m_M < M
    r_R = tl.arange(0, BR)
    w_MR = tl.load(
        w + (linear * M + m_M[:, None]) * R + r_R[None, :],
        mask=m_in[:, None] & (r_R < R)[None, :],
        other=0.0,
    )
    o_O = (block - first) * BO + tl.arange(0, BO)
    _add_up(w_MR, y, up, out, m_M, m_in, o_O, outputs, R, scale, BR, compute)


def launch(
    x_BTI: Tensor,
    scales: Sequence[float],
    tensors: Sequence[Tensor | None],
    *,
    autocast: bool,
    most: int,
    few: Blocks | None = None,
    many: tuple[Blocks, Blocks] | None = None,
) -> list[Tensor]:
    """The outputs of a group; `tensors` as `bem.kernels.delta` orders them.

    Args:
        few: one launch with these blocks, however many tokens there are.
        many: two launches, shrink and expand, with these.
    """
    count = len(scales)
    by_role = [[_flat(tensors[6 * g + role]) for g in range(count)] for role in range(6)]
    ys, downs, ups, codes, gates, biases = by_role
    x_BTI = x_BTI.contiguous()
    tokens, inputs = x_BTI.shape[-2], x_BTI.shape[-1]
    total, rank = x_BTI.numel() // inputs, len(tensors[1])  # type: ignore[arg-type]
    code = tensors[3]
    outs = [torch.empty_like(_tensor(y)) for y in ys]
    outputs = [out.shape[-1] for out in outs]
    kind = _tensor(ys[0]).dtype if autocast else _tensor(downs[0]).dtype
    rank_block = max(16, triton.next_power_of_2(rank))
    if few is None and many is None:
        size = max(x_BTI.element_size(), _tensor(downs[0]).element_size())
        if total <= FEW_TOKENS:
            few = fitting(FEW, rank_block, size)
        else:
            high = rank_block * size <= EXPAND_BYTES
            many = fitting(SHRINK, rank_block, size), EXPAND if high else Blocks()
    form: dict[str, Any] = {
        "coded": code is not None,
        "per_token": code is not None and code.shape[-2] == tokens,
        "gated": gates[0] is not None,
    }
    same: dict[str, Any] = {
        "linears": count,
        "compute": _TYPES[kind],
        "BR": rank_block,
    }

    def three(values: Sequence[Any]) -> list[Any]:
        """Places that a group of fewer does not use stay empty: `linears` says so at compile
        time, and what is None costs nothing at a launch."""
        return [*values, *[None] * (most - count)]

    def grid(blocks: Blocks) -> tuple[tuple[int, int], list[Any]]:
        """Blocks of tokens, blocks of outputs of all linears; and where those of each end."""
        parts = [triton.cdiv(o, blocks.BO) for o in outputs]
        ends = [parts[0] if count > 1 else None, parts[1] if count > 2 else None]
        return (triton.cdiv(total, blocks.BM), sum(parts)), [*three(scales), *three(outputs), *ends]

    inner = [*three(downs), *three(codes), *three(gates), *three(biases)]
    if few is not None:
        places, sizes = grid(few)
        _few[places](
            x_BTI, *three(ys), *three(outs), *three(downs), *three(ups),
            *three(codes), *three(gates), *three(biases), *sizes,
            total, tokens, inputs, rank, **asdict(few), **form, **same,
        )  # fmt: skip
        return outs
    assert many is not None
    shrink, expand = many
    w = torch.empty(count, total, rank, device=x_BTI.device, dtype=torch.float32)
    _shrink[(triton.cdiv(total, shrink.BM), count)](
        x_BTI, w, *inner, total, tokens, inputs, rank,
        BM=shrink.BM, BI=shrink.BI, num_warps=shrink.num_warps, num_stages=shrink.num_stages,
        **form, **same,
    )  # fmt: skip
    places, sizes = grid(expand)
    _expand[places](
        w, *three(ys), *three(outs), *three(ups), *sizes, total, rank,
        BM=expand.BM, BO=expand.BO, num_warps=expand.num_warps, num_stages=expand.num_stages,
        **same,
    )  # fmt: skip
    return outs


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
