"""A frozen linear with the low-rank deltas of G adapters, each on its block of the rows, as one
node of the training graph.

    y = W x + b + up (w down x)               g: the gradient of y
    d(wz) = g up         z = down x           d(up) = g^T (w z)
    dz = w d(wz)         dw = d(wz) z         d(down) = dz^T x
    dx = g W + dz down

The same as the linear and the products of `BlockProducts` one by one. Both sums go into what is
there already, and each parameter gets its own gradient in its own layout: less memory is written
and fewer nodes run, which is where a packed step's time goes. It knows no adapter.

Legend: G adapters, M rows of one block times positions, B rows, T positions, I inputs, O outputs,
R rank, X = 1 or T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def block_linear(
    base: nn.Linear,
    x_BTI: Tensor,
    weight_BXR: Tensor,
    downs_RI: Sequence[Tensor],
    ups_OR: Sequence[Tensor],
) -> Tensor:
    """base(x) + up (weight * (down x)), block g of the rows by adapter g.

    Args:
        base: frozen: it gets no gradient.
        weight_BXR: R may be 1.
    """
    made: Tensor = _BlockLinear.apply(  # type: ignore[no-untyped-call]
        x_BTI, weight_BXR, base.weight, base.bias, *downs_RI, *ups_OR
    )
    return made


class _BlockLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTI: Tensor,
        weight_BXR: Tensor,
        base_OI: Tensor,
        bias_O: Tensor | None,
        *factors: Tensor,
    ) -> Tensor:
        count = len(factors) // 2
        down_GRI, up_GOR = torch.stack(factors[:count]), torch.stack(factors[count:])
        y_BTO = nn.functional.linear(x_BTI, base_OI, bias_O)
        x_GMI = _in_blocks(x_BTI, count)
        z_BTR = torch.bmm(x_GMI, down_GRI.mT).view(*x_BTI.shape[:2], -1)
        weighed_GMR = _in_blocks(z_BTR * weight_BXR, count)
        _in_blocks(y_BTO, count).baddbmm_(weighed_GMR, up_GOR.mT)
        ctx.save_for_backward(x_BTI, z_BTR, weight_BXR, base_OI, down_GRI, up_GOR)
        return y_BTO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BTO: Tensor) -> tuple[Tensor | None, ...]:
        x_BTI, z_BTR, weight_BXR, base_OI, down_GRI, up_GOR = ctx.saved_tensors
        wants_x, wants_weight, _, _, *wants = ctx.needs_input_grad
        count = len(down_GRI)
        g_GMO = _in_blocks(g_BTO, count)
        none: list[Tensor | None] = [None] * count
        ups, downs, weight, dx_BTI = none, none, None, None
        if any(wants[count:]):
            # This way round and transposed after it: half the time of g^T (w z).
            dup_GRO = torch.bmm(_in_blocks(z_BTR * weight_BXR, count).mT, g_GMO)
            ups = [*dup_GRO.mT.contiguous()]
        d_BTR = torch.bmm(g_GMO, up_GOR).view(z_BTR.shape)
        if wants_weight:
            weight = (d_BTR * z_BTR).sum_to_size(weight_BXR.shape)
        d_GMR = _in_blocks(d_BTR.mul_(weight_BXR), count)
        if any(wants[:count]):
            downs = [*torch.bmm(d_GMR.mT, _in_blocks(x_BTI, count))]
        if wants_x:
            dx_BTI = g_BTO @ base_OI
            _in_blocks(dx_BTI, count).baddbmm_(d_GMR, down_GRI)
        return dx_BTI, weight, None, None, *downs, *ups


def _in_blocks(x_BTI: Tensor, count: int) -> Tensor:
    return x_BTI.reshape(count, -1, x_BTI.shape[-1])
