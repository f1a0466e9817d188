"""The generated BEM as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank, S sites.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.generated.layer import GeneratedAdapter, SequenceCodeLayer, TokenCodeLayer


def site_output(
    adapter: GeneratedAdapter,
    index: int,
    x_BTI: Tensor,
    y_BTO: Tensor,
    codes_BSR: Tensor | None = None,
) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum_r c_r * <down[r], x[b, t]> * up[:, r].

    c is row b of `codes_BSR` at this site, or, with a token code, 2 sigmoid(gate z + bias) of the
    same z[r] = <down[r], x[b, t]>.
    """
    layer = adapter.layers[index]
    assert isinstance(layer, SequenceCodeLayer | TokenCodeLayer)
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            z_R = torch.stack([torch.dot(down_I, x_BTI[b, t]) for down_I in layer.down_RI])
            if isinstance(layer, TokenCodeLayer):
                gate_R = torch.mv(layer.gate_RR, z_R) + layer.gate_bias_R
                c_R = 2 / (1 + torch.exp(-gate_R))
            else:
                assert codes_BSR is not None
                c_R = codes_BSR[b, index]
            for r in range(len(z_R)):
                out_BTO[b, t] += strength * layer.scale * c_R[r] * z_R[r] * layer.up_OR[:, r]
    return out_BTO
