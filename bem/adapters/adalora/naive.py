"""AdaLoRA as plain loops, from PEFT's weights, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.adalora.layer import AdaLoraAdapter
from bem.layers.peft_sites import NAME


def site_output(adapter: AdaLoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * alpha / rank * sum_r E_r * P[:, r] * <Q[r], x[b, t]>."""
    layer = adapter.peft_layers()[index]
    q_RI, p_OR, e_R = layer.lora_A[NAME], layer.lora_B[NAME], layer.lora_E[NAME][:, 0]
    scale = adapter.config.alpha / (layer.ranknum[NAME].item() + 1e-5)
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for r in range(adapter.config.rank):
                z = torch.dot(q_RI[r], x_BTI[b, t])
                out_BTO[b, t] += strength * scale * e_R[r] * z * p_OR[:, r]
    return out_BTO
