"""VeRA as plain loops, from PEFT's weights, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.vera.layer import VeraAdapter
from bem.layers.peft_sites import NAME


def site_output(adapter: VeraAdapter, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    """y[b, t] + strength * b * (B (d * (A x[b, t]))), A and B cut to the site."""
    layer = adapter.peft_layers()[index]
    inputs, outputs = x_BTI.shape[2], y_BTO.shape[2]
    d_R, b_O = layer.vera_lambda_d[NAME], layer.vera_lambda_b[NAME]
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            for r in range(adapter.config.rank):
                z = torch.dot(adapter.projection_RI[r, :inputs], x_BTI[b, t])
                column_O = adapter.projection_OR[:outputs, r]
                out_BTO[b, t] += strength * b_O * column_O * d_R[r] * z
    return out_BTO
