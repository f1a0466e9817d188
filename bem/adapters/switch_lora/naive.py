"""Switch LoRA as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, E experts, R rank of one expert.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bem.adapters.switch_lora.layer import SwitchLoraAdapter, SwitchLoraLayer


def site_output(
    adapter: SwitchLoraAdapter,
    index: int,
    x_BTI: Tensor,
    y_BTO: Tensor,
    *,
    lengths: list[int] | None = None,
) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * p_e up_e (down_e x[b, t]), e the best expert.

    With `lengths`, the real tokens of each row (right padded), as in training: an expert that has
    taken ceil(capacity_factor * length / E) tokens of the row drops the next ones, and padding
    gets nothing. Without, as at inference: no capacity.
    """
    layer = adapter.layers[index]
    assert isinstance(layer, SwitchLoraLayer)
    config = adapter.config
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        taken = [0] * config.experts
        positions = x_BTI.shape[1] if lengths is None else lengths[b]
        for t in range(positions):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            logits = [float(torch.dot(row_I, x_BTI[b, t])) for row_I in layer.router_EI]
            e = max(range(config.experts), key=lambda e: logits[e])
            taken[e] += 1
            if lengths is not None:
                room = math.ceil(config.capacity_factor * lengths[b] / config.experts)
                if taken[e] > room:
                    continue
            p = math.exp(logits[e]) / sum(math.exp(logit) for logit in logits)
            columns = slice(e * config.rank, (e + 1) * config.rank)
            delta_O = layer.up_ON[:, columns] @ (layer.down_NI[columns] @ x_BTI[b, t])
            out_BTO[b, t] += strength * layer.scale * p * delta_O
    return out_BTO
