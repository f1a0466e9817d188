"""Reduced-rank regression: the linear map of rank at most R that explains outputs best.

    minimise sum_n |d_n - up down x_n|^2   over up (O, R) and down (R, I)

From the sums G = sum x x^T and C = sum d x^T alone (Izenman 1975, J. Multivariate Analysis 5): with
G = V L V^T, the leading R singular triples of C V L^(-1/2). Directions that no input has are left
out, where a map would be arbitrary. It knows neither adapters nor models.

Legend: N samples, I inputs, O outputs, R rank, K directions that the inputs have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_NEGLIGIBLE = 1e-8
"""Of the largest eigenvalue of G: below, a direction counts as not there (float32 inputs)."""


class Moments:
    """Sums over samples, in double precision."""

    def __init__(self, in_features: int, out_features: int, device: torch.device) -> None:
        def zeros(rows: int) -> Tensor:
            return torch.zeros(rows, in_features, dtype=torch.float64, device=device)

        self.gram_II, self.cross_OI = zeros(in_features), zeros(out_features)
        self.energy = 0.0

    def add(self, x_NI: Tensor, d_NO: Tensor) -> None:
        """Samples: inputs and what should come out."""
        x_NI, d_NO = x_NI.double(), d_NO.double()
        self.gram_II += x_NI.T @ x_NI
        self.cross_OI += d_NO.T @ x_NI
        self.energy += float(d_NO.square().sum())

    @staticmethod
    def size_bytes(in_features: int, out_features: int) -> int:
        """Memory of one."""
        return 8 * in_features * (in_features + out_features)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LowRankMap:
    """The best map, and what it leaves."""

    down_RI: Tensor
    up_OR: Tensor
    energy: float
    """sum |d|^2"""
    residual: float
    """sum |d - up down x|^2; never below 0."""


def reduced_rank_regression(moments: Moments, rank: int) -> LowRankMap:
    """The best map of at most `rank`; missing ranks are filled with zeros."""
    value_I, vector_II = torch.linalg.eigh(moments.gram_II)
    kept = value_I > _NEGLIGIBLE * value_I[-1].clamp_min(1e-300)
    root_K, vector_IK = value_I[kept].sqrt(), vector_II[:, kept]
    left_OM, size_M, right_MK = torch.linalg.svd(
        moments.cross_OI @ vector_IK / root_K, full_matrices=False
    )
    found = min(rank, len(size_M))
    half_R = size_M[:found].sqrt()
    down_RI = half_R[:, None] * (right_MK[:found] / root_K) @ vector_IK.T
    up_OR = left_OM[:, :found] * half_R
    missing = rank - found
    return LowRankMap(
        down_RI=torch.nn.functional.pad(down_RI, (0, 0, 0, missing)),
        up_OR=torch.nn.functional.pad(up_OR, (0, missing)),
        energy=moments.energy,
        residual=max(0.0, moments.energy - float(size_M[:found].square().sum())),
    )
