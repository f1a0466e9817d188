"""The interpolation BEM as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, K experts, S sites (or 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.interpolation.layer import InterpolationAdapter, InterpolationLayer


def site_output(
    adapter: InterpolationAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor, codes_BSK: Tensor
) -> Tensor:
    """y[b, t] + strength * sum_k w[b, k] * up_k (down_k x[b, t])."""
    layer = adapter.layers[index]
    assert isinstance(layer, InterpolationLayer)
    site = index if adapter.config.per_site else 0
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            start = 0
            for k, rank in enumerate(adapter.config.expert_ranks):
                down_RI = layer.down_RI[start : start + rank]
                up_OR = layer.up_OR[:, start : start + rank]
                delta_O = torch.mv(up_OR, torch.mv(down_RI, x_BTI[b, t]))
                out_BTO[b, t] += strength * codes_BSK[b, site, k] * delta_O
                start += rank
    return out_BTO
