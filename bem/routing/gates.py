"""Gates over experts: logits, the k largest, and top-k gates of a bank in two forms.

    renormalised        g = softmax(keep the k largest logits)         arXiv 1701.06538, eq. 3 and 5
    straight_through    g = 1/k at the k largest, backward as the full softmax (arXiv 1308.3432)

Both sum to 1. Renormalised with k = 1 is constantly 1: no gradient reaches the router, so it is
refused. Logits are computed in the router's own precision whatever autocast says: a rounded logit
can choose another expert. It knows no adapter.

Legend: B rows, T positions, I inputs, X any leading shape, E or K experts, k chosen ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bem.errors import InvalidInputError

Gate = Literal["renormalised", "straight_through"]


def gates(logits_XK: Tensor, k: int, gate: Gate) -> Tensor:
    """Gates (..., K), zero outside the k largest logits, summing to 1."""
    return gates_and_softmax(logits_XK, k, gate)[0]


def gates_and_softmax(logits_XK: Tensor, k: int, gate: Gate) -> tuple[Tensor, Tensor]:
    """The gates, and the softmax of all logits, which the terms of a bank read."""
    if gate == "renormalised" and k == 1:
        raise InvalidInputError("Renormalised top-1 gates are constant: no router gradient.")
    apply: Callable[..., tuple[Tensor, Tensor]] = _Gates.apply  # untyped in torch
    return apply(logits_XK, k, gate == "renormalised")


class _Gates(torch.autograd.Function):
    """Both at once, experts first inside: K is short, and sums over it run over all tokens.

    Forward and backward of a token-routed bank took 1.23 of a LoRA's step with torch's own softmax
    over the last dimension.
    """

    @staticmethod
    def forward(ctx: Any, logits_XK: Tensor, k: int, renormalised: bool) -> tuple[Tensor, Tensor]:
        shape = logits_XK.shape
        logits_KM = logits_XK.flatten(0, -2).t().contiguous()
        p_KM = logits_KM.softmax(0)
        chosen_kM = logits_KM.topk(k, dim=0).indices
        if renormalised:
            kept_kM = p_KM.gather(0, chosen_kM)
            kept_kM = kept_kM / kept_kM.sum(0)
            g_KM = torch.zeros_like(p_KM).scatter_(0, chosen_kM, kept_kM)
        else:
            g_KM = torch.zeros_like(p_KM).scatter_(0, chosen_kM, 1.0 / k)
        ctx.save_for_backward(p_KM, g_KM if renormalised else None)
        return g_KM.t().contiguous().view(shape), p_KM.t().reshape(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dg_XK: Tensor, dp_XK: Tensor) -> tuple[Tensor, None, None]:
        """A softmax over any set: d logits = g (dg - sum g dg), here over the chosen and over all.

        Straight through, the gates' gradient is that of p.
        """
        p_KM, g_KM = ctx.saved_tensors
        shape = dg_XK.shape
        dg_KM, dp_KM = (d.flatten(0, -2).t().contiguous() for d in (dg_XK, dp_XK))
        if g_KM is None:
            dp_KM = dp_KM + dg_KM
        wp_KM = p_KM * dp_KM
        d_KM = wp_KM - p_KM * wp_KM.sum(0)
        if g_KM is not None:
            wg_KM = g_KM * dg_KM
            d_KM = d_KM + wg_KM - g_KM * wg_KM.sum(0)
        return d_KM.t().contiguous().view(shape), None, None


def new_router(experts: int, in_features: int, generator: torch.Generator) -> nn.Parameter:
    """Uniform with bound 1 / sqrt(I), as a linear layer starts."""
    bound = 1.0 / math.sqrt(in_features)
    weight_EI = torch.empty(experts, in_features).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(weight_EI)


def router_logits(x_BTI: Tensor, router_EI: Tensor) -> Tensor:
    """(B, T, E), never in reduced precision."""
    with torch.autocast(x_BTI.device.type, enabled=False):
        return nn.functional.linear(x_BTI.to(router_EI.dtype), router_EI)


def top_k(logits_BTE: Tensor, k: int) -> Tensor:
    """True at the k largest of each token."""
    chosen_BTk = logits_BTE.topk(k, dim=-1).indices
    return torch.zeros_like(logits_BTE, dtype=torch.bool).scatter_(-1, chosen_BTk, True)
