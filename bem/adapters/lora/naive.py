"""LoRA as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.lora.layer import LoraAdapter, LoraLayer


def site_output(adapter: LoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum_r up[:, r] * <down[r], x[b, t]>."""
    layer = adapter.layers[index]
    assert isinstance(layer, LoraLayer)
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for r in range(layer.down_RI.shape[0]):
                z = torch.dot(layer.down_RI[r], x_BTI[b, t])
                out_BTO[b, t] += strength * layer.scale * z * layer.up_OR[:, r]
    return out_BTO
