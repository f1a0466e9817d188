"""The orthogonal LoRA with dense projectors and plain loops, to be read and to test `layer`.

Legend: B rows, T positions, D, I, O features, Q columns of a basis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.orthogonal.layer import OrthogonalAdapter, OrthogonalLayer


def projector(basis_DQ: Tensor) -> Tensor:
    """I - Q Q^T (D, D), one column of the basis after the other."""
    size = basis_DQ.shape[0]
    out_DD = torch.eye(size, dtype=basis_DQ.dtype)
    for column_D in basis_DQ.T:
        out_DD = out_DD - torch.outer(column_D, column_D)
    return out_DD


def site_output(adapter: OrthogonalAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * P_out up down P_in x[b, t]."""
    layer = adapter.layers[index]
    assert isinstance(layer, OrthogonalLayer)
    weight_OI = (
        layer.scale * projector(layer.out_OQ) @ layer.up_OR @ layer.down_RI @ projector(layer.in_IQ)
    )
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            out_BTO[b, t] += strength * (weight_OI @ x_BTI[b, t])
    return out_BTO
