"""The write gate and its coupling to a gated recurrence over chunks.

    beta_t = sigmoid(g_t + u c_n),  exactly 0 below the threshold
    c_{n+1} = a_n c_n + (1 - a_n) tanh(e_n),  a_n = sigmoid(f_n)

g_t is local, e_n and f_n are means of linear features over chunk n. c is sticky: fixed during a
chunk and made of earlier chunks only, so it is causal. The recurrence is a one-layer gated
state-space model over chunks (cf. 2312.00752); through it what was said long ago can decide what
is worth writing now. Knows nothing of stores.

Legend: B streams, N chunks, G coupling width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def hard_gate(logit: Tensor, threshold: float) -> Tensor:
    """sigmoid(logit), exactly zero where it is below `threshold` (and no gradient there)."""
    beta = torch.sigmoid(logit)
    return torch.where(beta >= threshold, beta, torch.zeros_like(beta))


class Coupling(nn.Module):
    """The recurrence c and its weight in the gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.leave_G = nn.Parameter(torch.zeros(width))
        """u: zero at the start, so the gate begins local."""

    def forward(self, enter_BNG: Tensor, keep_BNG: Tensor, c_BG: Tensor) -> tuple[Tensor, Tensor]:
        """What c adds to the gate logits of each chunk (B, N), and c after the last chunk."""
        a_BNG = torch.sigmoid(keep_BNG)
        add_BNG = (1 - a_BNG) * torch.tanh(enter_BNG)
        sticky = []
        for a_BG, add_BG in zip(a_BNG.unbind(1), add_BNG.unbind(1), strict=True):
            sticky.append(c_BG)
            c_BG = torch.addcmul(add_BG, a_BG, c_BG)
        return torch.stack(sticky, dim=1) @ self.leave_G, c_BG
