"""The arithmetic that low-rank adapters share. It knows neither adapters nor models.

Legend: B rows, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def down(x_BTI: Tensor, down_RI: Tensor) -> Tensor:
    """z_BTR = down x, in the adapter's precision where no autocast decides it."""
    if x_BTI.dtype != down_RI.dtype and not torch.is_autocast_enabled(x_BTI.device.type):
        x_BTI = x_BTI.to(down_RI.dtype)
    return nn.functional.linear(x_BTI, down_RI)


def add_up(
    y_BTO: Tensor, z_BTR: Tensor, up_OR: Tensor, scale: float, strength_rows: Tensor | None
) -> Tensor:
    """y + scale * strength * (up z), as one product with the sum fused in."""
    if strength_rows is not None:
        z_BTR = z_BTR * strength_rows.to(z_BTR.dtype)
    if y_BTO.dtype != z_BTR.dtype and not torch.is_autocast_enabled(y_BTO.device.type):
        delta_BTO = nn.functional.linear(z_BTR, up_OR)
        return torch.add(y_BTO, delta_BTO.to(y_BTO.dtype), alpha=scale)
    out = torch.addmm(
        y_BTO.reshape(-1, y_BTO.shape[-1]),
        z_BTR.reshape(-1, z_BTR.shape[-1]),
        up_OR.t(),
        alpha=scale,
    )
    return out.view(y_BTO.shape)


def uniform_down(rank: int, in_features: int, generator: torch.Generator) -> nn.Parameter:
    """Kaiming-uniform with a = sqrt(5), as LoRA's code and PEFT do: bound 1 / sqrt(I)."""
    bound = 1.0 / math.sqrt(in_features)
    weight = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(weight)


def zero_up(out_features: int, rank: int) -> nn.Parameter:
    """The other factor starts at zero, so the delta does."""
    return nn.Parameter(torch.zeros(out_features, rank))


def add_delta(
    y_BTO: Tensor, delta_BTO: Tensor, scale: float, strength_rows: Tensor | None
) -> Tensor:
    """y + scale * strength * delta, in y's precision."""
    if strength_rows is not None:
        delta_BTO = delta_BTO * strength_rows.to(delta_BTO.dtype)
    return torch.add(y_BTO, delta_BTO.to(y_BTO.dtype), alpha=scale)
