"""DoRA as plain loops, from PEFT's weights, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.dora.layer import DoraAdapter
from bem.layers.peft_sites import NAME


def site_output(adapter: DoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * (x[b, t] V'^T - x[b, t] W^T), with the rows of V' rescaled.

    V = W + (alpha / rank) * up down; row o of V' is m_o V_o / ||V_o||. The base's bias, if any, is
    in y already and stays what it is.
    """
    layer = adapter.peft_layers()[index]
    weight_OI = layer.get_base_layer().weight
    scale = adapter.config.alpha / adapter.config.rank
    v_OI = weight_OI + scale * (layer.lora_B[NAME].weight @ layer.lora_A[NAME].weight)
    magnitude_O = layer.lora_magnitude_vector[NAME].weight
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for o in range(y_BTO.shape[2]):
                direction_I = v_OI[o] / v_OI[o].norm()
                moved = magnitude_O[o] * torch.dot(direction_I, x_BTI[b, t])
                out_BTO[b, t, o] += strength * (moved - torch.dot(weight_OI[o], x_BTI[b, t]))
    return out_BTO
