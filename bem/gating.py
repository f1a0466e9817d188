"""Gates over experts, a token at a time, and the balance of their load. It knows no adapter.

Logits are computed in the router's own precision whatever autocast says: a rounded logit can
choose another expert. Padding counts in no load.

Legend: B rows, T positions, I inputs, E experts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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
