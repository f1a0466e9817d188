"""Top-k gates over a bank, in two forms, and how evenly a bank is used. It knows no adapter.

    renormalised        g = softmax(keep the k largest logits)         arXiv 1701.06538, eq. 3 and 5
    straight_through    g = 1/k at the k largest, backward as the full softmax (arXiv 1308.3432)

Both sum to 1. Renormalised with k = 1 is constantly 1: no gradient reaches the router, so it is
refused. The balance loss of Switch Transformer stands in `bem.gating`.

Legend: X any leading shape, K experts, k chosen ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bem.errors import InvalidInputError
from bem.gating import load

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


def importance_loss(gates_BTK: Tensor, token_mask_BT: Tensor | None) -> Tensor:
    """CV(importance)^2, importance the sum of each expert's gates over a batch.

    arXiv 1701.06538, equations 6 and 7, with the variance of the K experts (not a sample's).
    """
    sum_K = _masked(gates_BTK, token_mask_BT).sum((0, 1))
    mean = sum_K.mean()
    squared_cv: Tensor = (sum_K - mean).square().mean() / mean.square().clamp_min(1e-10)
    return squared_cv


def mean_entropy(p_BTK: Tensor, token_mask_BT: Tensor | None) -> Tensor:
    """The mean entropy (nats) of a token's probabilities: small where routing is decided."""
    entropy_BT1 = torch.special.entr(p_BTK).sum(-1, keepdim=True)
    count = entropy_BT1.numel() if token_mask_BT is None else token_mask_BT.sum().clamp_min(1)
    mean: Tensor = _masked(entropy_BT1, token_mask_BT).sum() / count
    return mean


def utilisation_gap(p_BTK: Tensor, token_mask_BT: Tensor | None) -> Tensor:
    """log K minus the entropy (nats) of the mean probabilities: 0 where the bank is used evenly.

    log K - gap - `mean_entropy` is the mutual information of context and expert, which Mod-Squad
    (arXiv 2212.08066) maximises.
    """
    sum_K = _masked(p_BTK, token_mask_BT).sum((0, 1))
    mean_K = sum_K / sum_K.sum().clamp_min(1e-10)
    gap: Tensor = math.log(len(mean_K)) - torch.special.entr(mean_K).sum()
    return gap


@dataclass(frozen=True, kw_only=True, slots=True)
class Utilisation:
    """How evenly the experts of one bank were chosen."""

    load: tuple[float, ...]
    """Share of all choices that fell on each expert."""
    effective: float
    """exp(entropy of the load): K where even, 1 where one expert has all."""
    used: float
    """Share of the experts that got at least a tenth of an even load."""


def utilisation(gates_BTK: Tensor, token_mask_BT: Tensor | None = None) -> Utilisation:
    """From gates, of which those above 0 are choices."""
    load_K = load(gates_BTK > 0, token_mask_BT).double()
    experts = len(load_K)
    return Utilisation(
        load=tuple(load_K.tolist()),
        effective=float(torch.special.entr(load_K).sum().exp()),
        used=float((load_K >= 0.1 / experts).double().mean()),
    )


def _masked(x_BTK: Tensor, token_mask_BT: Tensor | None) -> Tensor:
    return x_BTK if token_mask_BT is None else x_BTK * token_mask_BT.unsqueeze(-1).to(x_BTK.dtype)
