"""Penalties that hold parameters near where they were: EWC and a proximal term.

EWC (1612.00796, eq. 3) pulls each parameter to its value at the anchor with the weight of its
diagonal Fisher information; the proximal term (as in FedProx, 1812.06127, eq. 2) pulls all of them
equally to a centre that moves with every accepted checkpoint. Both gradients are added in closed
form, so a penalty costs no graph. Nothing here knows a model or a batch.

    EWC:       e/2 sum_i F_i (p_i - p0_i)^2        gradient  e F_i (p_i - p0_i)
    proximal:  m/2 sum_i (p_i - c_i)^2             gradient  m (p_i - c_i)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from bem.errors import InvalidInputError

T = TypeVar("T")
Parameters = Mapping[str, nn.Parameter]


def copy_of(parameters: Parameters) -> dict[str, Tensor]:
    """Detached copies, by name."""
    return {name: value.detach().clone() for name, value in parameters.items()}


@torch.no_grad()
def write_back(parameters: Parameters, values: Mapping[str, Tensor]) -> None:
    """Set parameters to stored values."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def diagonal_fisher(
    parameters: Parameters, losses: Callable[[Sequence[T]], Tensor], items: Sequence[T]
) -> dict[str, Tensor]:
    """Mean over items of the squared gradient of one item's loss (the empirical Fisher).

    The observed target stands for a draw from the model, as is usual; the mean over all
    parameters is scaled to 1, so that the EWC weight means the same for every model and subset.
    """
    if not items:
        raise InvalidInputError("The Fisher information needs at least one item.")
    names = list(parameters)
    total = {name: torch.zeros_like(parameters[name]) for name in names}
    for item in items:
        gradients = torch.autograd.grad(losses([item]).sum(), [parameters[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            total[name] += gradient.detach().square()
    count = sum(value.numel() for value in total.values())
    mean = sum(float(value.double().sum()) for value in total.values()) / count
    if mean == 0.0:
        return total
    return {name: value / mean for name, value in total.items()}


class Anchors:
    """Where the parameters are held: the EWC anchor (fixed) and the proximal centre (moves)."""

    def __init__(
        self,
        parameters: Parameters,
        fisher: Mapping[str, Tensor],
        *,
        ewc: float,
        proximal: float,
    ) -> None:
        if ewc < 0 or proximal < 0:
            raise InvalidInputError(f"Penalties must be >= 0, got ewc {ewc}, proximal {proximal}.")
        self._parameters = dict(parameters)
        self._fisher = dict(fisher)
        self._anchor = copy_of(parameters)
        self._centre = copy_of(parameters)
        self.ewc = ewc
        self.proximal = proximal

    def recentre(self) -> None:
        """The proximal centre becomes the present parameters."""
        self._centre = copy_of(self._parameters)

    def penalty(self) -> float:
        """The two penalties' value."""
        total = 0.0
        for name, value in self._parameters.items():
            now = value.detach()
            total += (
                0.5 * self.ewc * float((self._fisher[name] * (now - self._anchor[name]) ** 2).sum())
            )
            total += 0.5 * self.proximal * float(((now - self._centre[name]) ** 2).sum())
        return total

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the penalties' gradients to `.grad`, which must be there."""
        for name, value in self._parameters.items():
            assert value.grad is not None
            if self.ewc:
                value.grad.addcmul_(self._fisher[name], value - self._anchor[name], value=self.ewc)
            if self.proximal:
                value.grad.add_(value - self._centre[name], alpha=self.proximal)
