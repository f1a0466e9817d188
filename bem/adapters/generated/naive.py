"""The generated BEM as plain loops, to be read and to test `layer` against.

Legend: B rows, T positions, I inputs, O outputs, R rank, S sites, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bem.adapters.generated.layer import ContextCodeLayer, GeneratedAdapter, TokenCodeLayer


def site_output(
    adapter: GeneratedAdapter,
    index: int,
    x_BTI: Tensor,
    y_BTO: Tensor,
    codes_BSR: Tensor | None = None,
    causal_BTSR: Tensor | None = None,
) -> Tensor:
    """y[b, t] + strength * (alpha / rank) * sum_r c_r * <down[r], x[b, t]> * up[:, r].

    c is the product of what there is: row b of `codes_BSR` at this site, the chunk code in force
    at t, and 2 sigmoid(gate z + bias) of the same z[r] = <down[r], x[b, t]>.
    """
    layer = adapter.layers[index]
    assert isinstance(layer, ContextCodeLayer | TokenCodeLayer)
    out_BTO = y_BTO.clone()
    for b in range(x_BTI.shape[0]):
        for t in range(x_BTI.shape[1]):
            strength = adapter.state.strength
            rows = adapter.state.strength_rows
            if rows is not None:
                strength = strength * float(rows[b, min(t, rows.shape[1] - 1), 0])
            z_R = torch.stack([torch.dot(down_I, x_BTI[b, t]) for down_I in layer.down_RI])
            c_R = torch.ones_like(z_R)
            if codes_BSR is not None:
                c_R = c_R * codes_BSR[b, index]
            if causal_BTSR is not None:
                c_R = c_R * causal_BTSR[b, t, index]
            if isinstance(layer, TokenCodeLayer):
                gate_R = torch.mv(layer.gate_RR, z_R) + layer.gate_bias_R
                c_R = c_R * 2 / (1 + torch.exp(-gate_R))
            if layer.trust_radius is not None:
                delta_OI = layer.scale * layer.up_OR @ torch.diag(c_R) @ layer.down_RI
                norm = float(torch.linalg.matrix_norm(delta_OI))
                c_R = c_R * min(1.0, layer.trust_radius / norm)
            for r in range(len(z_R)):
                out_BTO[b, t] += strength * layer.scale * c_R[r] * z_R[r] * layer.up_OR[:, r]
    return out_BTO


def chunk_codes(adapter: GeneratedAdapter, h_TD: Tensor) -> Tensor:
    """The chunk codes (T, S, R) of one row without padding.

    Every position walks over the whole chunks before its own, from the first one.
    """
    controller = adapter.chunk_controller
    size, decay = controller.chunk_size, controller.decay
    codes = []
    for t in range(len(h_TD)):
        code_N = torch.ones(len(controller.heads_bias_N))
        for chunk in range(t // size):
            sum_D = torch.zeros(h_TD.shape[1])
            for h_D in h_TD[chunk * size : (chunk + 1) * size]:
                sum_D = sum_D + _normed(h_D)
            f_D = _normed(sum_D / size)
            u_H = torch.tanh(torch.mv(controller.trunk_HD, f_D) + controller.trunk_bias_H)
            logits_N = torch.mv(controller.heads_NH, u_H) + controller.heads_bias_N
            code_N = decay * code_N + (1 - decay) * 2 / (1 + torch.exp(-logits_N))
        codes.append(code_N.view(len(adapter.sites), -1))
    return torch.stack(codes)


def _normed(x_D: Tensor) -> Tensor:
    return (x_D - x_D.mean()) / torch.sqrt(x_D.var(unbiased=False) + 1e-5)
