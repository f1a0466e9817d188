"""How sure a controller is, and the way back to the static path where it is not.

    p = sigmoid(logit / temperature),   code = static + p (routed - static)

The logit is a head on the controller's own features. The task's loss reaches it through the fade;
`confidence_loss` teaches it what p is meant to be, the probability that the routed code beats the
static one on this row. One temperature, fitted on held-out rows, calibrates it (Guo et al., arXiv
1706.04599, section 4); `expected_calibration_error` is their equation 3. It knows no adapter.

Legend: B rows, H controller width, N labelled rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bem.errors import InvalidInputError

START = 2.0
"""The logit of a new head: p = .88, near enough to the routed code and far from saturation."""


class ConfidenceHead(nn.Module):
    """One logit a row, and the temperature that calibrates it."""

    temperature_1: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight_1H = nn.Parameter(torch.zeros(1, width))
        self.bias_1 = nn.Parameter(torch.full((1,), START))
        self.register_buffer("temperature_1", torch.ones(1))

    def forward(self, u_BH: Tensor) -> Tensor:
        """The logit (B,), before the temperature."""
        with torch.autocast(u_BH.device.type, enabled=False):
            return nn.functional.linear(u_BH, self.weight_1H, self.bias_1).squeeze(-1)

    def fade(
        self,
        routed_BSR: Tensor,
        u_BH: Tensor,
        *,
        static: float,
        signals: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The code between `static` and `routed_BSR`; `signals` takes the logit and the latter."""
        logit_B = self(u_BH)
        if signals is not None:
            signals.update(confidence_logit=logit_B, routed_code=routed_BSR)
        p_B11 = torch.sigmoid(logit_B / self.temperature_1)[:, None, None]
        return static + p_B11 * (routed_BSR - static)

    @staticmethod
    def count_parameters(width: int) -> int:
        """Parameters by formula."""
        return width + 1


def confidence_loss(logit_N: Tensor, right_N: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of logits against what turned out; a proper score."""
    return nn.functional.binary_cross_entropy_with_logits(logit_N, right_N.to(logit_N.dtype))


def expected_calibration_error(p_N: Tensor, right_N: Tensor, *, bins: int = 15) -> float:
    """sum_b |B_b| / N |accuracy(B_b) - confidence(B_b)| over equal bins ((b - 1) / M, b / M].

    For a binary event p is its probability and accuracy its frequency.
    """
    if p_N.shape != right_N.shape or p_N.dim() != 1 or not len(p_N):
        raise InvalidInputError(
            f"Calibration wants two equal, non-empty vectors, got {tuple(p_N.shape)} and "
            f"{tuple(right_N.shape)}."
        )
    if bins < 1 or bool(((p_N < 0) | (p_N > 1)).any()):
        raise InvalidInputError(f"bins is {bins} and p must lie in [0, 1].")
    p_N, right_N = p_N.detach().double(), right_N.double()
    bin_N = ((p_N * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap_M = torch.zeros(bins, dtype=torch.float64, device=p_N.device)
    gap_M.index_add_(0, bin_N, right_N - p_N)
    return float(gap_M.abs().sum() / len(p_N))


def fit_temperature(logit_N: Tensor, right_N: Tensor) -> float:
    """The temperature that minimises `confidence_loss(logit / temperature)`.

    The loss is convex in 1 / temperature, so its derivative's sign is bisected, in logarithms
    between 1/1000 and 1000. The ends come back where separable or contrary labels put it there.
    """
    if not len(logit_N):
        raise InvalidInputError("A temperature needs at least one labelled row.")
    logit_N, right_N = logit_N.detach().double(), right_N.double()
    low, high = math.log(1e-3), math.log(1e3)
    for _ in range(60):
        middle = 0.5 * (low + high)
        slope = float(((torch.sigmoid(logit_N * math.exp(middle)) - right_N) * logit_N).sum())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-0.5 * (low + high))
