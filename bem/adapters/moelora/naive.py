"""MoELoRA as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, E experts, R rank of one expert.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bem.adapters.moelora.layer import MoeLoraAdapter, MoeLoraLayer


def site_output(adapter: MoeLoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum over the k best e of g_e up_e (down_e x[b, t]).

    g is a softmax over the k best logits; with k = 1, the winner's probability among all.
    """
    layer = adapter.layers[index]
    assert isinstance(layer, MoeLoraLayer)
    config = adapter.config
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            logits = [float(torch.dot(row_I, x_BTI[b, t])) for row_I in layer.router_EI]
            best = sorted(range(config.experts), key=lambda e: -logits[e])[: config.top_k]
            among = range(config.experts) if config.top_k == 1 else best
            total = sum(math.exp(logits[e]) for e in among)
            for e in best:
                columns = slice(e * config.rank, (e + 1) * config.rank)
                delta_O = layer.up_ON[:, columns] @ (layer.down_NI[columns] @ x_BTI[b, t])
                gate = math.exp(logits[e]) / total
                out_BTO[b, t] += strength * layer.scale * gate * delta_O
    return out_BTO
