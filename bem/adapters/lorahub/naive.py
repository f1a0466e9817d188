"""The mixture of LoraHub as plain loops, from PEFT's weights, to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.lorahub.layer import MIXTURE, LoraHubAdapter


def site_output(adapter: LoraHubAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * sum_r up[:, r] * <down[r], x[b, t]> with the mixture's factors."""
    layer = adapter.peft_layers()[index]
    down_RI, up_OR = layer.lora_A[MIXTURE].weight, layer.lora_B[MIXTURE].weight
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for r in range(down_RI.shape[0]):
                z = torch.dot(down_RI[r], x_BTI[b, t])
                out_BTO[b, t] += strength * z * up_OR[:, r]
    return out_BTO
