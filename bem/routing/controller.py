"""The shared controller of adapters with a sequence code: prompt features in, code out.

    f = norm(pool over prompt positions of norm(h))    h: frozen-base features, pool: see `Pool`
    u = tanh(trunk [f, side])                          one trunk for the whole adapter
    code = heads u                                     one head a site, held as one matrix

It reads prompt positions only, so a code never sees what comes after them. Means of many tokens
are small and alike; the second norm brings them back to unit size, or codes hardly differ between
prompts at first. It knows no adapter.

Legend: B rows, T positions, D hidden size, F side features, H controller width, N code size.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from bem.errors import RoutingError

Pool = Literal["attention", "mean", "last"]
"""Over prompt positions: one learned query (a plain mean at first), the mean, the last one."""


class SequenceController(nn.Module):
    """A two-layer network over pooled prompt features."""

    def __init__(
        self,
        *,
        hidden_size: int,
        side_size: int,
        width: int,
        code_size: int,
        pool: Pool,
        head_spread: float,
        head_bias: float,
        generator: torch.Generator,
    ) -> None:
        """`head_spread`: bound of the heads' uniform start, times 1 / sqrt(width)."""
        super().__init__()
        inputs = hidden_size + side_size
        self.pool = pool
        self.side_size = side_size
        self.query_1D = nn.Parameter(torch.zeros(1, hidden_size)) if pool == "attention" else None
        self.trunk_HD = _uniform(width, inputs, math.sqrt(3.0 / inputs), generator)
        self.trunk_bias_H = nn.Parameter(torch.zeros(width))
        self.heads_NH = _uniform(code_size, width, head_spread / math.sqrt(width), generator)
        self.heads_bias_N = nn.Parameter(torch.full((code_size,), head_bias))

    def forward(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        """The code (B, N), in the controller's own precision whatever the base's."""
        return self.code(self.features(h_BTD, prefix_mask_BT, side_BF))

    def features(self, h_BTD: Tensor, prefix_mask_BT: Tensor, side_BF: Tensor | None) -> Tensor:
        """u (B, H), what all heads read."""
        dtype = self.trunk_HD.dtype
        with torch.autocast(h_BTD.device.type, enabled=False):
            f_BD = pool_prompt(h_BTD.to(dtype), prefix_mask_BT, self.pool, self.query_1D)
            if self.side_size:
                if side_BF is None or side_BF.shape[1] != self.side_size:
                    raise RoutingError(
                        f"The controller expects side_BF with {self.side_size} features, got "
                        f"{None if side_BF is None else tuple(side_BF.shape)}."
                    )
                f_BD = torch.cat([f_BD, side_BF.to(dtype)], dim=1)
            return torch.tanh(nn.functional.linear(f_BD, self.trunk_HD, self.trunk_bias_H))

    def code(self, u_BH: Tensor) -> Tensor:
        """The code (B, N) from `features`."""
        with torch.autocast(u_BH.device.type, enabled=False):
            return nn.functional.linear(u_BH, self.heads_NH, self.heads_bias_N)

    @staticmethod
    def count_parameters(
        *, hidden_size: int, side_size: int, width: int, code_size: int, pool: Pool
    ) -> int:
        """Parameters by formula."""
        query = hidden_size if pool == "attention" else 0
        return query + (hidden_size + side_size + 1) * width + (width + 1) * code_size

    def forward_flops(self, *, batch: int, seq_len: int) -> int:
        """Products of one prefill: scores and pooling over the row, trunk, heads."""
        width, inputs = self.trunk_HD.shape
        over_row = {"attention": 2, "mean": 1, "last": 0}[self.pool]
        pooling = over_row * seq_len * (inputs - self.side_size)
        return 2 * batch * (pooling + width * inputs + self.heads_NH.numel())


def pool_prompt(h_BTD: Tensor, prefix_mask_BT: Tensor, pool: Pool, query: Tensor | None) -> Tensor:
    """f (B, D). `query`, with "attention": (1, D), or (B, D) where each row has its own."""
    if pool == "last":
        position_T = torch.arange(h_BTD.shape[1], device=h_BTD.device)
        last_B = (position_T * prefix_mask_BT).amax(1)
        rows_B = torch.arange(h_BTD.shape[0], device=h_BTD.device)
        return nn.functional.layer_norm(h_BTD[rows_B, last_B], h_BTD.shape[-1:])
    f_BTD = nn.functional.layer_norm(h_BTD, h_BTD.shape[-1:])
    weight_BT = prefix_mask_BT.to(f_BTD.dtype)
    if query is not None:
        if query.shape[0] == 1:
            score_BT = nn.functional.linear(f_BTD, query).squeeze(-1)
        else:
            score_BT = torch.bmm(f_BTD, query.unsqueeze(-1)).squeeze(-1)
        score_BT = score_BT / math.sqrt(h_BTD.shape[-1])
        score_BT = score_BT.masked_fill(~prefix_mask_BT, -1e4)
        weight_BT = weight_BT * (score_BT - score_BT.amax(1, keepdim=True)).exp()
    weight_BT = weight_BT / weight_BT.sum(1, keepdim=True).clamp_min(1e-9)
    pooled_BD = torch.bmm(weight_BT.unsqueeze(1), f_BTD).squeeze(1)
    return nn.functional.layer_norm(pooled_BD, pooled_BD.shape[-1:])


def _uniform(rows: int, columns: int, bound: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator))
