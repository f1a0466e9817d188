"""How evenly experts are used: loads, and the terms that training adds for it.

Padding counts in none of them. It knows no adapter.

Legend: B rows, T positions, E or K experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def load(chosen_BTE: Tensor, token_mask_BT: Tensor | None) -> Tensor:
    """The share of all choices that fell on each expert, (E), over real tokens; sums to 1."""
    count_BTE = chosen_BTE.float()
    if token_mask_BT is not None:
        count_BTE = count_BTE * token_mask_BT.unsqueeze(-1)
    count_E = count_BTE.sum((0, 1))
    return count_E / count_E.sum().clamp_min(1.0)


def balance_loss(p_BTE: Tensor, chosen_BTE: Tensor, token_mask_BT: Tensor | None) -> Tensor:
    """E * sum_e load_e * P_e, P the mean probability; 1 when even, E when one expert has all.

    Switch Transformer, arXiv 2101.03961, equations 4 to 6, with the load over all k choices of a
    token. Its gradient flows through P alone.
    """
    load_E = load(chosen_BTE.detach(), token_mask_BT)
    if token_mask_BT is None:
        mean_E = p_BTE.mean((0, 1))
    else:
        mask_BT1 = token_mask_BT.unsqueeze(-1).to(p_BTE.dtype)
        mean_E = (p_BTE * mask_BT1).sum((0, 1)) / mask_BT1.sum().clamp_min(1.0)
    return p_BTE.shape[-1] * (load_E.to(p_BTE.dtype) * mean_E).sum()


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
