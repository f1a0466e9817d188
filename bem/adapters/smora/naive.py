"""SMoRA as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bem.adapters.smora.layer import SmoraAdapter, SmoraLayer


def site_output(adapter: SmoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * scale * k * sum over the k best r of softmax_r * up[:, r] <down[r], x>.

    The k best are those of logit + bias, the softmax is over their logits without the bias.
    """
    layer = adapter.layers[index]
    assert isinstance(layer, SmoraLayer)
    config = adapter.config
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            logits = [float(torch.dot(row_I, x_BTI[b, t])) for row_I in layer.router_RI]
            ranked = [logit + float(layer.bias_R[r]) for r, logit in enumerate(logits)]
            best = sorted(range(config.rank), key=lambda r: -ranked[r])[: config.active]
            total = sum(math.exp(logits[r]) for r in best)
            for r in best:
                z = torch.dot(layer.down_RI[r], x_BTI[b, t])
                weight = config.scale * config.active * math.exp(logits[r]) / total
                out_BTO[b, t] += strength * weight * z * layer.up_OR[:, r]
    return out_BTO
