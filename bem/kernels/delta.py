"""y + scale * up (c * (down x)) at one linear, or at up to three that read the same x.

    c    the given code, times sigmoid(gate z + bias) with z = down x where there is a gate

The forward is a Triton kernel (`programs`), on a CUDA device or in Triton's interpreter; the
backward is torch's products over z of rank size. Which of two forms runs depends on the tokens:

    few     one launch: each program shrinks anew for its own block of outputs (decoding)
    many    two launches: shrink writes z, expand reads it (prefill, training)

It knows no adapter.

Legend: B rows, T positions, I inputs, O outputs, R rank, M = B * T tokens, X = 1 or T.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bem.errors import InvalidInputError

MOST = 3
"""Linears in one group: q, k and v."""
FEW_TOKENS = 64
"""Up to this many tokens one launch. By arithmetic, not by a measurement on a GPU: shrinking anew
reads down once a block of outputs, which is cheap while launches, not bytes, cost the time."""
LARGEST_RANK = 128


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Delta:
    """What one linear's output gets."""

    y_BTO: Tensor
    """The linear's own output."""
    down_RI: Tensor
    up_OR: Tensor
    scale: float
    """Multiplies the delta: alpha / rank times the strength."""
    code_BXR: Tensor | None = None
    gate_RR: Tensor | None = None
    gate_bias_R: Tensor | None = None


def fused_delta(x_BTI: Tensor, delta: Delta) -> Tensor:
    """The output (B, T, O) with the delta; y itself is left as it is."""
    return grouped_delta(x_BTI, [delta])[0]


def grouped_delta(x_BTI: Tensor, deltas: Sequence[Delta]) -> list[Tensor]:
    """The same for linears that read the same x, at the launches of one.

    Raises:
        InvalidInputError: no kernel can run here, or the shapes do not belong together.
    """
    require_triton(x_BTI.device)
    _check(x_BTI, deltas)
    tensors = [t for d in deltas for t in (d.y_BTO, *_factors(d))]
    scales = [d.scale for d in deltas]
    recorded = [x_BTI, *(t for t in tensors if t is not None)]
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in recorded)):
        autocast = torch.is_autocast_enabled(x_BTI.device.type)
        return list(_programs().launch(x_BTI, scales, tensors, autocast=autocast, most=MOST))
    apply: Callable[..., tuple[Tensor, ...]] = _Grouped.apply  # untyped in torch
    return list(apply(x_BTI, scales, *tensors))


def require_triton(device: torch.device) -> None:
    """Raise unless the kernels can run on this device."""
    if find_spec("triton") is None:
        raise InvalidInputError("Kernels need Triton: pip install 'bem-fleet[kernels]'.")
    if device.type != "cuda" and not _interpreted():
        raise InvalidInputError(
            f"Kernels run on a CUDA device, not on '{device.type}'; to test what they compute, set "
            "TRITON_INTERPRET=1 before Python starts."
        )


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _factors(delta: Delta) -> tuple[Tensor | None, ...]:
    return delta.down_RI, delta.up_OR, delta.code_BXR, delta.gate_RR, delta.gate_bias_R


class _Grouped(torch.autograd.Function):
    """Tensors come as y, down, up, code, gate, gate bias of each linear, one after the other."""

    @staticmethod
    def forward(
        ctx: Any, x_BTI: Tensor, scales: list[float], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.scales = scales
        ctx.autocast = torch.is_autocast_enabled(x_BTI.device.type)
        # y is not needed for the backward: it is a sum
        ctx.save_for_backward(x_BTI, *[t for i, t in enumerate(tensors) if i % 6])
        return tuple(_programs().launch(x_BTI, scales, tensors, autocast=ctx.autocast, most=MOST))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dout: Tensor) -> tuple[Any, ...]:
        """d up = scale * dy^T w and d w = scale * dy up; the rest through w = c * (down x)."""
        x_BTI, *saved = ctx.saved_tensors
        dx_BTI: Tensor | None = None
        grads: list[Tensor | None] = []
        for at, (scale, dy_BTO) in enumerate(zip(ctx.scales, dout, strict=True)):
            down_RI, up_OR, *rest = saved[5 * at : 5 * at + 5]
            compute = dy_BTO.dtype if ctx.autocast else up_OR.dtype
            wanted = [x_BTI, down_RI, *rest]
            asked = [ctx.needs_input_grad[0], *_asked(ctx, at)]
            leaves: list[Any] = [
                None if t is None else t.detach().requires_grad_(ask)
                for t, ask in zip(wanted, asked, strict=True)
            ]
            with torch.enable_grad():
                w_BTR = weighed(*leaves, compute=compute)
            dy = dy_BTO.to(compute)
            dw_BTR = scale * (dy @ up_OR.to(compute))
            active: list[Tensor] = [leaf for leaf, ask in zip(leaves, asked, strict=True) if ask]
            found = iter(torch.autograd.grad(w_BTR, active, dw_BTR) if active else ())
            made = [next(found) if ask else None for ask in asked]
            dup_OR = scale * torch.einsum("bto,btr->or", dy, w_BTR.detach())
            if made[0] is not None:
                dx_BTI = made[0] if dx_BTI is None else dx_BTI + made[0]
            grads += [dy_BTO, made[1], dup_OR.to(up_OR.dtype), *made[2:]]
        return (dx_BTI, None, *grads)


def _asked(ctx: Any, at: int) -> list[bool]:
    """Whether down, code, gate and gate bias of linear `at` want a gradient."""
    first = 2 + 6 * at
    return [bool(ctx.needs_input_grad[first + i]) for i in (1, 3, 4, 5)]


def weighed(
    x_BTI: Tensor,
    down_RI: Tensor,
    code_BXR: Tensor | None,
    gate_RR: Tensor | None,
    gate_bias_R: Tensor | None,
    *,
    compute: torch.dtype,
) -> Tensor:
    """w = c * (down x), (B, T, R), by torch: what the backward goes through."""
    z_BTR = torch.nn.functional.linear(x_BTI.to(compute), down_RI.to(compute))
    w_BTR = z_BTR
    if gate_RR is not None and gate_bias_R is not None:
        gate = torch.nn.functional.linear(z_BTR, gate_RR.to(compute), gate_bias_R.to(compute))
        w_BTR = w_BTR * torch.sigmoid(gate)
    return w_BTR if code_BXR is None else w_BTR * code_BXR.to(compute)


@cache
def _programs() -> Any:
    """The module that imports Triton."""
    return import_module("bem.kernels.programs")


def _check(x_BTI: Tensor, deltas: Sequence[Delta]) -> None:
    if not 1 <= len(deltas) <= MOST:
        raise InvalidInputError(f"{len(deltas)} linears in a group; from 1 to {MOST}.")
    first = deltas[0]
    if len(first.down_RI) > LARGEST_RANK:
        raise InvalidInputError(f"Rank {len(first.down_RI)}; kernels go up to {LARGEST_RANK}.")
    for delta in deltas:
        rank = len(first.down_RI)
        kinds = [t is None for t in _factors(delta)] == [t is None for t in _factors(first)]
        shapes = (
            delta.down_RI.shape == (rank, x_BTI.shape[-1])
            and delta.up_OR.shape == (delta.y_BTO.shape[-1], rank)
            and delta.y_BTO.shape[:-1] == x_BTI.shape[:-1]
        )
        if not kinds or not shapes or (delta.gate_RR is None) != (delta.gate_bias_R is None):
            raise InvalidInputError(
                "The linears of a group read one x, have one rank, and all or none of them a code "
                "and a gate."
            )
