"""The dynamic-rank BEM as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank, G head groups, S sites, C = R + G.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.dynamic_rank.layer import DynamicRankAdapter, DynamicRankLayer


def site_output(
    adapter: DynamicRankAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor, codes_BSC: Tensor
) -> Tensor:
    """y[b, t] + strength * (alpha / k) * sum over chosen r of gated <down[r], x> up[:, r]."""
    layer = adapter.layers[index]
    assert isinstance(layer, DynamicRankLayer)
    rank = adapter.config.rank
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        code_C = codes_BSC[b, index]
        chosen = [r for r in range(rank) if float(code_C[r]) > 0.5]
        assert len(chosen) == adapter.config.active_rank
        gate_X = torch.stack([code_C[rank + int(group)] for group in layer.group_X])
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            x_I = x_BTI[b, t] * gate_X if layer.gates_input else x_BTI[b, t]
            for r in chosen:
                delta_O = torch.dot(layer.down_RI[r], x_I) * layer.up_OR[:, r]
                if not layer.gates_input:
                    delta_O = delta_O * gate_X
                out_BTO[b, t] += strength * layer.scale * delta_O
    return out_BTO
