"""The kernels as plain loops, to be read and to test them against.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bem.kernels.delta import Delta


def fused_delta(x_BTI: Tensor, delta: Delta) -> Tensor:
    """y[b, t] + scale * sum_r c_r * <down[r], x[b, t]> * up[:, r].

    c is given, or sigmoid(gate z + bias) with z[r] = <down[r], x[b, t]>, or 1.
    """
    out_BTO = delta.y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            z = [float(torch.dot(down_I, x_BTI[b, t])) for down_I in delta.down_RI]
            for r in range(len(z)):
                c = 1.0
                if delta.code_BXR is not None:
                    c = float(delta.code_BXR[b, min(t, delta.code_BXR.shape[1] - 1), r])
                if delta.gate_RR is not None and delta.gate_bias_R is not None:
                    dots = sum(float(g) * zq for g, zq in zip(delta.gate_RR[r], z, strict=True))
                    c = c / (1 + math.exp(-dots - float(delta.gate_bias_R[r])))
                out_BTO[b, t] += delta.scale * c * z[r] * delta.up_OR[:, r]
    return out_BTO
