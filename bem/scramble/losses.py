"""Losses of scramble-equivariant training.

The objective is CE(x) + w KL(stopgrad p(.|x) || S^-1 p(.|S x)) plus VICReg on a middle layer.
Equivariance holds at the logits; invariance is asked of a middle layer only, because states before
the logits must still know which symbol they saw.

Shapes: N selected positions, V vocabulary, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def equivariance_kl(logits_NV: Tensor, undone_NV: Tensor) -> Tensor:
    """Mean KL(stopgrad softmax(logits) || softmax(undone)) over positions, in nats.

    Args:
        logits_NV: logits on x (the teacher: no gradient flows into it).
        undone_NV: logits on S x after `SymbolBijection.undo_logits`.
    """
    teacher_NV = functional.log_softmax(logits_NV.detach().float(), dim=-1)
    student_NV = functional.log_softmax(undone_NV.float(), dim=-1)
    return functional.kl_div(student_NV, teacher_NV, log_target=True, reduction="batchmean")


@dataclass(frozen=True, kw_only=True, slots=True)
class VicregWeights:
    """Weights of the three terms (arXiv 2105.04906, equation 6: 25, 25, 1)."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


def vicreg(a_ND: Tensor, b_ND: Tensor, weights: VicregWeights) -> Tensor:
    """VICReg (arXiv 2105.04906) between paired projections of x and S x.

    invariance: mean squared distance of the pairs; variance: hinge max(0, 1 - std) per feature
    (equations 1 and 2, epsilon 1e-4); covariance: squared off-diagonal covariances over D
    (equations 3 and 4). Variance and covariance are summed over both sides.

    Raises:
        ValueError: with fewer than two positions, where no variance exists.
    """
    if a_ND.shape != b_ND.shape or a_ND.shape[0] < 2:
        raise ValueError(
            f"vicreg needs two equal shapes (N >= 2, D), got {tuple(a_ND.shape)} and "
            f"{tuple(b_ND.shape)}."
        )
    a_ND, b_ND = a_ND.float(), b_ND.float()
    loss = weights.invariance * functional.mse_loss(a_ND, b_ND)
    for side_ND in (a_ND, b_ND):
        centred_ND = side_ND - side_ND.mean(dim=0)
        variance_D = centred_ND.square().sum(dim=0) / (side_ND.shape[0] - 1)
        hinge = functional.relu(1.0 - torch.sqrt(variance_D + 1e-4)).mean()
        covariance_DD = centred_ND.T @ centred_ND / (side_ND.shape[0] - 1)
        off_diagonal = covariance_DD.square().sum() - covariance_DD.diagonal().square().sum()
        loss = loss + weights.variance * hinge
        loss = loss + weights.covariance * off_diagonal / side_ND.shape[1]
    return loss
