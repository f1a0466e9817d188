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
from typing import Any

import torch
from torch import Tensor, nn

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
        "device_type",
    )

    def __init__(self, parameters: tuple[Tensor, ...]) -> None:
        """down (R, I) and up (O, R); where tokens are gated also gate (R, R) and its bias (R,)."""
        down_RI, up_OR, *gate = parameters
        self._parameters = parameters
        self._versions = tuple(map(_version, parameters))
        # `.to` gives the same parameters other memory. The old one is held: it cannot come again.
        self._down_RI, self._place = down_RI.detach(), down_RI.data_ptr()
        self.device_type = down_RI.device.type
        with torch.inference_mode(False), torch.no_grad():
            down_IR = down_RI.t()
            self._bias_M: Tensor | None = None
            if gate:
                gate_RR, bias_R = gate
                self._down_IM = torch.cat([down_IR, torch.mm(down_IR, gate_RR.t())], dim=1)
                self._bias_M = torch.nn.functional.pad(bias_R, (len(bias_R), 0))
            else:
                self._down_IM = down_IR.contiguous()
            self._up_RO = up_OR.t().contiguous()
        self._code_11R: Tensor | None = None
        self._coded_RO = self._up_RO

    def made_of(self, parameters: tuple[Tensor, ...]) -> bool:
        """Whether the parameters are those that this was made of, unchanged."""
        for now, then, version in zip(parameters, self._parameters, self._versions, strict=True):
            if now is not then or now._version != version:
                return False
        return parameters[0].data_ptr() == self._place

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
        self, layer: nn.Module, state: AdapterState, x_BTI: Tensor, y_BTO: Tensor
    ) -> StepFactors | None:
        """The factors of `layer`, where this forward is a step that they can serve: one token, no
        gradients, one precision; nobody records it, maps its codes or weighs it by row.

        Asked at each site of each step, so it wastes no call.
        """
        made, self._made = self._made, None
        if (
            torch.is_grad_enabled()
            or x_BTI.size(1) != 1
            or state.trace is not None
            or state.site_codes is not None
            or state.code_map is not None
            or state.strength_rows is not None
        ):
            return None
        parameters: tuple[Any, ...] = tuple(layer._parameters.values())
        dtype = parameters[0].dtype
        device_type = x_BTI.device.type if made is None else made.device_type
        if (
            x_BTI.dtype is not dtype
            or y_BTO.dtype is not dtype
            or torch.is_autocast_enabled(device_type)
        ):
            return None
        if made is None or not made.made_of(parameters):
            if any(parameter.is_inference() for parameter in parameters):
                return None  # nobody counts its changes
            made = StepFactors(parameters)
        self._made = made
        return made
