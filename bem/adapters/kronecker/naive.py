"""The Kronecker BEM with the delta built in full, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R terms, S sites.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.kronecker.layer import KroneckerAdapter, KroneckerLayer


def site_output(
    adapter: KroneckerAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor, codes_BSR: Tensor
) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum_r c_r kron(A_r, B_r) x[b, t]."""
    layer = adapter.layers[index]
    assert isinstance(layer, KroneckerLayer)
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        delta_OI = torch.zeros(y_BTO.shape[2], x_BTI.shape[2])
        for r in range(adapter.config.rank):
            delta_OI += codes_BSR[b, index, r] * torch.kron(layer.left_RUP[r], layer.right_RVQ[r])
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            out_BTO[b, t] += strength * layer.scale * torch.mv(delta_OI, x_BTI[b, t])
    return out_BTO
