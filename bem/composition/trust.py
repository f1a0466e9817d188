"""The Frobenius trust region of a coded delta, dW <- dW min(1, tau / ||dW||_F), without dW.

    ||U diag(c) V||_F^2 = c^T ((U^T U) o (V V^T)) c        o: elementwise

so a site needs one R x R matrix whatever its size, and the projection only scales the code. It
knows no adapter.

Legend: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gram(down_RI: Tensor, up_OR: Tensor) -> Tensor:
    """(U^T U) o (V V^T), (R, R), in the factors' own precision."""
    with torch.autocast(down_RI.device.type, enabled=False):
        return (up_OR.T @ up_OR) * (down_RI @ down_RI.T)


def squared_norm(code_XR: Tensor, gram_RR: Tensor) -> Tensor:
    """||U diag(c) V||_F^2 for every code of any leading shape."""
    with torch.autocast(code_XR.device.type, enabled=False):
        code_XR = code_XR.to(gram_RR.dtype)
        return (torch.nn.functional.linear(code_XR, gram_RR) * code_XR).sum(-1).clamp_min(0)


def into_trust_region(code_XR: Tensor, gram_RR: Tensor, radius: float) -> Tensor:
    """The code scaled so that its delta's norm is at most `radius`; others are left exactly."""
    squared_X = squared_norm(code_XR, gram_RR)
    shrink_X = radius * squared_X.clamp_min(radius**2).rsqrt()
    shrink_X = torch.where(squared_X > radius**2, shrink_X, 1.0)
    return code_XR * shrink_X.unsqueeze(-1).to(code_XR.dtype)
