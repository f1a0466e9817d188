"""The value head: how much a prompt calls for the safety branch, from one hidden state.

It reads the last prompt position's last hidden state of a frozen model and returns a logit;
`sigmoid` of it is the gate. With `width` 0 it is linear, else a two-layer network (the
classifier of equal size that hard refusal uses). It knows neither prompts nor policies.

Legend: B rows, D hidden size, H width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """logit = w2 gelu(W1 norm(h) + b1) + b2, or w norm(h) + b."""

    def __init__(self, hidden_size: int, *, width: int = 0, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        inputs = width if width else hidden_size
        if width:
            bound = math.sqrt(3.0 / hidden_size)
            weight_HD = torch.empty(width, hidden_size)
            self.trunk_HD = nn.Parameter(weight_HD.uniform_(-bound, bound, generator=generator))
            self.trunk_bias_H = nn.Parameter(torch.zeros(width))
        self.head_1X = nn.Parameter(torch.zeros(1, inputs))
        self.bias_1 = nn.Parameter(torch.zeros(1))

    def forward(self, h_BD: Tensor) -> Tensor:
        """Logits (B,), in float32 whatever the base's precision."""
        with torch.autocast(h_BD.device.type, enabled=False):
            f_BX = nn.functional.layer_norm(h_BD.float(), h_BD.shape[-1:])
            if self.width:
                f_BX = nn.functional.gelu(
                    nn.functional.linear(f_BX, self.trunk_HD, self.trunk_bias_H)
                )
            return nn.functional.linear(f_BX, self.head_1X, self.bias_1).squeeze(-1)

    @staticmethod
    def count_parameters(hidden_size: int, width: int) -> int:
        """Parameters by formula."""
        return hidden_size + 1 if not width else (hidden_size + 2) * width + 1

    def forward_flops(self, *, batch: int) -> int:
        """Products of one call, a multiply-add is two."""
        weights = self.head_1X.numel() + (self.trunk_HD.numel() if self.width else 0)
        return 2 * batch * weights
