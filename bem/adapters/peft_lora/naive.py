"""LoRA as plain loops, from PEFT's weights, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.peft_lora.layer import PeftLoraAdapter
from bem.layers.peft_sites import NAME


def site_output(adapter: PeftLoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum_r up[:, r] * <down[r], x[b, t]>."""
    layer = adapter.peft_layers()[index]
    down_RI, up_OR = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    scale = adapter.config.alpha / adapter.config.rank
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for r in range(adapter.config.rank):
                z = torch.dot(down_RI[r], x_BTI[b, t])
                out_BTO[b, t] += strength * scale * z * up_OR[:, r]
    return out_BTO
