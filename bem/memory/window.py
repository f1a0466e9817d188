"""Sliding-window attention block: position t sees t-C+1 .. t, by a learned relative bias.

Computed in chunks of C positions against the chunk itself and the one before; keys and values of
the last chunk are all that a stream carries. There are no absolute positions, so nothing in it
depends on how long a stream already is. Knows nothing of memories.

Legend: B streams, N chunks, C positions of a chunk, S = 2C keys, D width, H heads, E head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WindowCache = tuple[Tensor, Tensor]
"""Keys and values of the last chunk, each (B, H, C, E)."""


class WindowBlock(nn.Module):
    """Pre-norm attention over the window, then an MLP with squared ReLU (2109.08668)."""

    distance_CS: Tensor

    def __init__(self, width: int, heads: int, mlp_ratio: int, chunk: int) -> None:
        super().__init__()
        self.heads = heads
        self.chunk = chunk
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.bias_HC = nn.Parameter(torch.zeros(heads, chunk))
        self.norm_mlp = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, mlp_ratio * width, bias=False)
        self.down = nn.Linear(mlp_ratio * width, width, bias=False)
        distance_CS = torch.arange(chunk).unsqueeze(1) + chunk - torch.arange(2 * chunk)
        self.register_buffer("distance_CS", distance_CS, persistent=False)

    def prime(self, x_BCD: Tensor) -> WindowCache:
        """The cache after a chunk whose own output is not wanted."""
        k_BNHCE, v_BNHCE = self._keys_values(self.norm_attention(x_BCD.unsqueeze(1)))
        return k_BNHCE[:, 0], v_BNHCE[:, 0]

    def forward(self, x_BNCD: Tensor, cache: WindowCache | None) -> tuple[Tensor, WindowCache]:
        """N chunks after those of `cache`; None: nothing came before."""
        normal_BNCD = self.norm_attention(x_BNCD)
        k_BNHCE, v_BNHCE = self._keys_values(normal_BNCD)
        bias_NHCS = self._bias(x_BNCD.shape[1], cold=cache is None)
        if cache is None:
            cache = (torch.zeros_like(k_BNHCE[:, 0]), torch.zeros_like(v_BNHCE[:, 0]))
        q_BNHCE = self._heads(self.query(normal_BNCD))
        k_BNHSE = _behind(cache[0], k_BNHCE)
        score_BNHCS = q_BNHCE @ k_BNHSE.mT * q_BNHCE.shape[-1] ** -0.5 + bias_NHCS
        mixed_BNHCE = score_BNHCS.softmax(dim=-1).to(v_BNHCE.dtype) @ _behind(cache[1], v_BNHCE)
        x_BNCD = x_BNCD + self.out(mixed_BNHCE.transpose(2, 3).flatten(3))
        hidden = functional.relu(self.up(self.norm_mlp(x_BNCD))).square()
        return x_BNCD + self.down(hidden), (k_BNHCE[:, -1], v_BNHCE[:, -1])

    def forward_flops(self) -> int:
        """FLOPs a position, products only, a multiply-add is two."""
        linears = (self.query, self.key_value, self.out, self.up, self.down)
        products = sum(linear.weight.numel() for linear in linears)
        return 2 * products + 4 * 2 * self.chunk * self.query.out_features

    def _heads(self, x_BNCD: Tensor) -> Tensor:
        return x_BNCD.reshape(*x_BNCD.shape[:-1], self.heads, -1).transpose(2, 3)

    def _keys_values(self, normal_BNCD: Tensor) -> tuple[Tensor, Tensor]:
        k_BNCD, v_BNCD = self.key_value(normal_BNCD).chunk(2, dim=-1)
        return self._heads(k_BNCD), self._heads(v_BNCD)

    def _bias(self, chunks: int, *, cold: bool) -> Tensor:
        """(N or 1, H, C, S): the bias by distance; -inf outside the window and before the start."""
        inside_CS = (self.distance_CS >= 0) & (self.distance_CS < self.chunk)
        bias_HCS = self.bias_HC[:, self.distance_CS.clamp(0, self.chunk - 1)]
        bias_NHCS = bias_HCS.masked_fill(~inside_CS, -math.inf).unsqueeze(0)
        if not cold:
            return bias_NHCS
        absent_N11S = torch.zeros(chunks, 1, 1, 2 * self.chunk, dtype=torch.bool)
        absent_N11S[0, ..., : self.chunk] = True
        return bias_NHCS.masked_fill(absent_N11S.to(bias_NHCS.device), -math.inf)


def _behind(first_BHCE: Tensor, x_BNHCE: Tensor) -> Tensor:
    """Each chunk behind the one before it: (B, N, H, 2C, E)."""
    before = torch.cat([first_BHCE.unsqueeze(1), x_BNHCE[:, :-1]], dim=1)
    return torch.cat([before, x_BNHCE], dim=3)
