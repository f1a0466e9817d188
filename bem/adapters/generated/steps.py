"""A decode step of one token at one site, whose time is in calls and not in bytes: the factors lie
as its products read them, one product gives z and its gate, and one row's code lies in `up`.

    [z; gate z + bias] = [down; gate down] x + [0; bias]      one product, then z sigmoid(.) is glu
    up (c * z) = (up diag(c)) z                               kept while c is the same tensor

What is made stays while the parameters do, and any other forward of the site drops it. So it lasts
one generation, whatever changes values between two of them without torch's counting it (fused
optimizers do). Without gradients only; it knows no adapter.

Legend: B rows, T positions, I inputs, O outputs, R rank, M = R, or 2R with a gate.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from bem.interfaces import AdapterState

_version = operator.attrgetter("_version")
"""What changes with each change in place that torch counts."""


class StepFactors:
    """The parameters of one site in the form of a decode step."""

    __slots__ = (
        "_bias_M",
        "_code_11R",
        "_coded_RO",
        "_down_IM",
        "_down_RI",
        "_parameters",
        "_place",
        "_up_RO",
        "_versions",
    )

    def __init__(self, parameters: tuple[Tensor, ...]) -> None:
        """down (R, I) and up (O, R); where tokens are gated also gate (R, R) and its bias (R,)."""
        down_RI, up_OR, *gate = (parameter.detach() for parameter in parameters)
        self._parameters = parameters
        self._versions = tuple(map(_version, parameters))
        # `.to` gives the same parameters other memory. The old one is held: it cannot come again.
        self._down_RI, self._place = down_RI, down_RI.data_ptr()
        with torch.inference_mode(False), torch.no_grad():
            self._bias_M: Tensor | None = None
            if gate:
                gate_RR, bias_R = gate
                down_RI = torch.cat([down_RI, gate_RR @ down_RI])
                self._bias_M = torch.cat([torch.zeros_like(bias_R), bias_R])
            self._down_IM = down_RI.t().contiguous()
            self._up_RO = up_OR.t().contiguous()
        self._code_11R: Tensor | None = None
        self._coded_RO = self._up_RO

    def made_of(self, parameters: tuple[Tensor, ...]) -> bool:
        """Whether the parameters are those that this was made of, unchanged."""
        return (
            all(map(operator.is_, parameters, self._parameters))
            and tuple(map(_version, parameters)) == self._versions
            and parameters[0].data_ptr() == self._place
        )

    def add(self, x_B1I: Tensor, y_B1O: Tensor, code_B1R: Tensor | None, scale: float) -> Tensor:
        """y + scale * up (code * z), z = down x; with a gate times sigmoid(gate z + bias)."""
        x_BI = x_B1I.squeeze(1)
        if self._bias_M is None:
            z_BR = torch.mm(x_BI, self._down_IM)
        else:
            z_BR = torch.nn.functional.glu(torch.addmm(self._bias_M, x_BI, self._down_IM))
        up_RO = self._up_RO
        if code_B1R is not None:
            if code_B1R.shape[0] == 1:
                up_RO = self._coded(code_B1R)
            else:
                z_BR.mul_(code_B1R.squeeze(1))
        return torch.addmm(y_B1O.squeeze(1), z_BR, up_RO, alpha=scale).unsqueeze(1)

    def _coded(self, code_11R: Tensor) -> Tensor:
        if code_11R is not self._code_11R:
            self._code_11R = code_11R
            self._coded_RO = self._up_RO * code_11R.view(-1, 1).to(self._up_RO.dtype)
        return self._coded_RO


class KeptStep:
    """The `StepFactors` of one site, from one decode step to the next."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: StepFactors | None = None

    def __reduce__(self) -> tuple[type[KeptStep], tuple[()]]:
        """A copy starts empty: its parameters are others, whose changes count from 0."""
        return KeptStep, ()

    def of(
        self, parameters: tuple[Tensor, ...], state: AdapterState, x_BTI: Tensor, y_BTO: Tensor
    ) -> StepFactors | None:
        """The factors for this forward, where it is a decode step that they can serve."""
        made = self._made
        if not _is_plain_step(state, x_BTI, y_BTO, parameters[0].dtype):
            made = None
        elif made is None or not made.made_of(parameters):
            counted = not any(parameter.is_inference() for parameter in parameters)
            made = StepFactors(parameters) if counted else None
        self._made = made
        return made


def _is_plain_step(state: AdapterState, x_BTI: Tensor, y_BTO: Tensor, dtype: torch.dtype) -> bool:
    """One token, no gradients, one precision; nobody records, maps or weighs it by row."""
    return (
        not torch.is_grad_enabled()
        and x_BTI.shape[1] == 1
        and state.trace is None
        and state.site_codes is None
        and state.code_map is None
        and state.strength_rows is None
        and x_BTI.dtype is y_BTO.dtype is dtype
        and not torch.is_autocast_enabled(x_BTI.device.type)
    )
