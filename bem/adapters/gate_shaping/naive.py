"""Gate shaping as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank, S sites.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.gate_shaping.layer import GateShapingAdapter, GateShapingLayer


def site_output(
    adapter: GateShapingAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor, codes_BSR: Tensor
) -> Tensor:
    """y[b, t] * (1 + strength * (alpha / rank) * sum_r c_r <down[r], x[b, t]> up[:, r])."""
    layer = adapter.layers[index]
    assert isinstance(layer, GateShapingLayer)
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for o in range(y_BTO.shape[2]):
                slope = 0.0
                for r in range(adapter.config.rank):
                    z = float(torch.dot(layer.down_RI[r], x_BTI[b, t]))
                    slope += float(codes_BSR[b, index, r]) * z * float(layer.up_OR[o, r])
                out_BTO[b, t, o] *= 1 + strength * layer.scale * slope
    return out_BTO
