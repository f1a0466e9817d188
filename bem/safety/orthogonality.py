"""How far two low-rank deltas of one site share directions, on the input and on the output side.

Legend: D features, N and M columns, K principal angles, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.interfaces import Adapter


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanOverlap:
    """One minus the largest cosine of the principal angles: 1 is orthogonal, 0 shares a direction.

    `mean` forms use the root mean square cosine over the smaller span instead of the largest.
    """

    input_worst: float
    output_worst: float
    input_mean: float
    output_mean: float

    @property
    def worst(self) -> float:
        """The smaller of both sides."""
        return min(self.input_worst, self.output_worst)


def _basis(columns_DN: Tensor) -> Tensor:
    left_DK: Tensor
    values_K: Tensor
    left_DK, values_K, _ = torch.linalg.svd(columns_DN.double(), full_matrices=False)
    largest = float(values_K.max())
    return left_DK[:, values_K > 1e-6 * largest] if largest > 0 else left_DK[:, :0]


def cosines(first_DN: Tensor, second_DM: Tensor) -> Tensor:
    """Cosines (K,) of the principal angles between two column spans."""
    a_DN, b_DM = _basis(first_DN), _basis(second_DM)
    if a_DN.shape[1] == 0 or b_DM.shape[1] == 0:
        return torch.zeros(1, dtype=torch.float64)
    values_K: Tensor = torch.linalg.svdvals(a_DN.T @ b_DM).clamp(0.0, 1.0)
    return values_K


def site_orthogonality(skill: Adapter, other: Adapter) -> dict[str, float]:
    """One minus the largest cosine on either side, by name of the sites that both change."""
    at = {site.name: index for index, site in enumerate(skill.sites)}
    found: dict[str, float] = {}
    for index, site in enumerate(other.sites):
        if site.name in at:
            down_skill, up_skill = skill.factors(at[site.name])
            down_other, up_other = other.factors(index)
            sides = (cosines(down_skill.T, down_other.T), cosines(up_skill, up_other))
            found[site.name] = 1.0 - _largest(sides)
    return found


def span_overlap(skill: Adapter, other: Adapter) -> SpanOverlap:
    """Worst and mean overlap over the sites that both adapters change."""
    at = {site.name: index for index, site in enumerate(skill.sites)}
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for index, site in enumerate(other.sites):
        if site.name in at:
            down_skill, up_skill = skill.factors(at[site.name])
            down_other, up_other = other.factors(index)
            inputs.append(cosines(down_skill.T, down_other.T))
            outputs.append(cosines(up_skill, up_other))
    return SpanOverlap(
        input_worst=1.0 - _largest(inputs),
        output_worst=1.0 - _largest(outputs),
        input_mean=1.0 - _rms(inputs),
        output_mean=1.0 - _rms(outputs),
    )


def _largest(sites: Sequence[Tensor]) -> float:
    return max((float(values_K.max()) for values_K in sites), default=0.0)


def _rms(sites: Sequence[Tensor]) -> float:
    if not sites:
        return 0.0
    return float(torch.cat(list(sites)).square().mean().sqrt())
