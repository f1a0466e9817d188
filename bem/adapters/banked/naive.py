"""The banked BEM as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, K experts, N = K * R, S sites (or 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bem.adapters.banked.layer import BankedAdapter, BankedLayer


def site_output(
    adapter: BankedAdapter,
    index: int,
    x_BTI: Tensor,
    y_BTO: Tensor,
    codes_BSK: Tensor | None = None,
) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum_k g[k] * up_k (down_k x[b, t]).

    g is row b of `codes_BSK`, or the top-k gates of the token's own logits.
    """
    layer = adapter.layers[index]
    assert isinstance(layer, BankedLayer)
    config = adapter.config
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            if codes_BSK is None:
                z_N = torch.mv(layer.down_NI, x_BTI[b, t])
                logits_K = torch.mv(layer.gate_KN, z_N) + layer.gate_bias_K
                g_K = token_gates(logits_K.tolist(), config.top_k, config.gate)
            else:
                g_K = codes_BSK[b, index if config.per_site else 0].tolist()
            for k in range(config.experts):
                own = slice(k * config.rank, (k + 1) * config.rank)
                delta_O = torch.mv(layer.up_ON[:, own], torch.mv(layer.down_NI[own], x_BTI[b, t]))
                out_BTO[b, t] += strength * layer.scale * g_K[k] * delta_O
    return out_BTO


def token_gates(logits_K: list[float], k: int, gate: str) -> list[float]:
    """A softmax over the k largest, or 1/k each; 0 for the others."""
    chosen = sorted(range(len(logits_K)), key=lambda i: -logits_K[i])[:k]
    if gate == "straight_through":
        return [1 / k if i in chosen else 0.0 for i in range(len(logits_K))]
    total = sum(math.exp(logits_K[i]) for i in chosen)
    return [math.exp(logits_K[i]) / total if i in chosen else 0.0 for i in range(len(logits_K))]
