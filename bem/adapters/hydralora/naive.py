"""HydraLoRA as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, K heads, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bem.adapters.hydralora.layer import HydraLoraAdapter, HydraLoraLayer


def site_output(adapter: HydraLoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum_k w_k up_k (down x[b, t]), w = softmax(R x)."""
    layer = adapter.layers[index]
    assert isinstance(layer, HydraLoraLayer)
    config = adapter.config
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            z_R = torch.mv(layer.down_RI, x_BTI[b, t])
            weights = [math.exp(float(torch.dot(row, x_BTI[b, t]))) for row in layer.router_KI]
            for k, weight in enumerate(weights):
                up_OR = layer.up_ON[:, k * config.rank : (k + 1) * config.rank]
                out_BTO[b, t] += strength * layer.scale * weight / sum(weights) * (up_OR @ z_R)
    return out_BTO
