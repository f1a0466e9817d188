"""X-LoRA as plain loops, from PEFT's weights, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, K experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.xlora.layer import XLoraAdapter


def site_output(adapter: XLoraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * sum_k s_k up_k (down_k x[b, t]), s of the last forward.

    With `top_k` the others' s are zero.
    """
    layer, config = adapter.peft_layers()[index], adapter.config
    s_BTK = adapter.state.codes[index]
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            weights = s_BTK[b, t].tolist()
            best = sorted(range(len(weights)), key=lambda k: -weights[k])
            for k in best[: config.top_k or len(weights)]:
                down_RI, up_OR = layer.lora_A[str(k)].weight, layer.lora_B[str(k)].weight
                delta_O = torch.mv(up_OR, torch.mv(down_RI, x_BTI[b, t]))
                out_BTO[b, t] += strength * weights[k] * delta_O
    return out_BTO
