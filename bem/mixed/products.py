"""Products of each row with its own adapter's factors, in three layouts of equal result.

    dense     factors side by side, z of all G adapters, the others' parts multiplied by 0
    gather    each row's factors gathered, then one batched product
    blocks    rows that stand in G equal runs, one after the other: one batched product over G

A layer of an adapter is written once for all of them (`AdapterLayer.mixed`): it asks for `down`,
`linear` and `add_up` by the names of its parameters. Code and weight (scale times strength, 0 at
rows of others) enter in `add_up`. What takes the base's linear along is offered by `with_base`. It
knows neither hosts nor kinds of adapters.

Legend: B rows, T positions, I inputs, O outputs, R rank, G adapters, N = G * R, Z = R or N,
X = 1 or T.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeGuard

import torch
from torch import Tensor, nn

from bem.mixed.block_linear import BlockSite
from bem.mixed.inputs import SharedInputs
from bem.mixed.selection import Selection
from bem.mixed.stack import Form, SiteStack
from bem.mixed.together import Call, Together

Layout = Literal["dense", "gather", "blocks"]
Factors = SiteStack | Selection
"""What gives the adapters' parameters at one site."""

DENSE_LIMIT = 16
"""Dense up to this T * G, measured on one CPU thread (d = 192 and 1,024, rank 8, 8 to 32 rows, 2 to
32 adapters): below it dense took 0.2 to 1.0 of the time of gather, above it 0.9 to 5.9."""


def choose_layout(*, adapters: int, tokens: int, in_runs: bool) -> Layout:
    """What is quickest for T `tokens` a row and G `adapters`."""
    if in_runs:
        return "blocks"
    return "dense" if tokens * adapters <= DENSE_LIMIT else "gather"


class RowProducts(ABC):
    """Products at one site."""

    def __init__(
        self,
        stacked: Factors,
        which_B: Tensor,
        adapters: int,
        *,
        kept: SharedInputs | None = None,
    ) -> None:
        """`which_B`: each row's adapter, 0 at rows of none, whose weight is 0. `kept`: what is
        gathered stays for the next forward of the same rows, that of all sites in one product
        where they share their input."""
        self._stacked = stacked
        self._kept = kept
        self._gathered: dict[tuple[str, Form], Tensor] = {}
        self._which_B = which_B
        self._adapters = adapters
        self.weight_BXZ: Tensor | None = None
        """Scale times strength times code; set before the first `add_up`."""

    @abstractmethod
    def down(self, x_BTI: Tensor, name: str) -> Tensor:
        """z_BTZ = down x, `name` an (R, I) parameter."""

    @abstractmethod
    def linear(self, z_BTZ: Tensor, name: str, bias: str) -> Tensor:
        """An (R, R) parameter and an (R,) bias over z."""

    def down_gated(self, x_BTI: Tensor, name: str, gate: str, bias: str) -> tuple[Tensor, Tensor]:
        """`down`, and `linear` of it."""
        z_BTZ = self.down(x_BTI, name)
        return z_BTZ, self.linear(z_BTZ, gate, bias)

    @abstractmethod
    def add_up(self, y_BTO: Tensor, z_BTZ: Tensor, name: str) -> Tensor:
        """y + up (weight * code * z), `name` an (O, R) parameter. It may write over y and z."""

    def with_base(self, base: nn.Module, x_BTI: Tensor, down: str, up: str) -> Tensor | None:
        """base(x) and `add_up` of `down` to it, where one node of the graph does both."""
        return None

    def _weighed(self, z_BTZ: Tensor) -> Tensor:
        assert self.weight_BXZ is not None
        weight_BXZ = self.weight_BXZ
        if weight_BXZ.dtype != z_BTZ.dtype:
            weight_BXZ = weight_BXZ.to(z_BTZ.dtype)
        if torch.is_grad_enabled() or z_BTZ.dtype != weight_BXZ.dtype:
            return z_BTZ * weight_BXZ
        return z_BTZ.mul_(weight_BXZ)


class DenseProducts(RowProducts):
    """One product over all ranks of all adapters; Z is N."""

    def down(self, x_BTI: Tensor, name: str) -> Tensor:
        down_NI = self._stacked(name, "side")
        return torch.nn.functional.linear(_in_dtype(x_BTI, down_NI), down_NI)

    def linear(self, z_BTZ: Tensor, name: str, bias: str) -> Tensor:
        gate_NN, bias_N = self._stacked(name, "diagonal"), self._stacked(bias, "side")
        return torch.addmm(bias_N, z_BTZ.flatten(0, 1), gate_NN).view(z_BTZ.shape)

    def down_gated(self, x_BTI: Tensor, name: str, gate: str, bias: str) -> tuple[Tensor, Tensor]:
        if self._stacked.live:
            return super().down_gated(x_BTI, name, gate, bias)
        weight, offset = self._stacked.gated(name, gate, bias)
        both = torch.nn.functional.linear(_in_dtype(x_BTI, weight), weight, offset)
        z_BTN, gated_BTN = both.chunk(2, dim=-1)
        return z_BTN, gated_BTN

    def add_up(self, y_BTO: Tensor, z_BTZ: Tensor, name: str) -> Tensor:
        z_BTZ = self._weighed(z_BTZ)
        up_NO = self._stacked(name, "below")
        if _sum_apart(y_BTO, z_BTZ):
            return y_BTO + (z_BTZ @ up_NO).to(y_BTO.dtype)
        if _may_write(y_BTO, z_BTZ):
            y_BTO.view(-1, y_BTO.shape[-1]).addmm_(z_BTZ.flatten(0, 1), up_NO)
            return y_BTO
        flat = torch.addmm(y_BTO.flatten(0, 1), z_BTZ.flatten(0, 1), up_NO)
        return flat.view(y_BTO.shape)


class GatheredProducts(RowProducts):
    """A batched product over rows; Z is R."""

    def __init__(
        self,
        stacked: Factors,
        which_B: Tensor,
        adapters: int,
        *,
        kept: SharedInputs | None = None,
    ) -> None:
        super().__init__(stacked, which_B, adapters, kept=kept)
        self._last_weight: Tensor | None = None
        self._kept_up: dict[str, tuple[Tensor, Tensor]] = {}

    def down(self, x_BTI: Tensor, name: str) -> Tensor:
        down_BIR = self._own(name, "each")
        x_BTI = _in_dtype(x_BTI, down_BIR)
        if self._kept is None:
            return torch.bmm(x_BTI, down_BIR)
        return self._kept.down((self._stacked.index, name), x_BTI, down_BIR)

    def linear(self, z_BTZ: Tensor, name: str, bias: str) -> Tensor:
        return torch.baddbmm(self._own(bias, "rows").unsqueeze(1), z_BTZ, self._own(name, "each"))

    def add_up(self, y_BTO: Tensor, z_BTZ: Tensor, name: str) -> Tensor:
        up_BRO = self._weighed_up(name)
        if up_BRO is None:
            z_BTZ, up_BRO = self._weighed(z_BTZ), self._own(name, "each")
        if _sum_apart(y_BTO, z_BTZ):
            return y_BTO + torch.bmm(z_BTZ, up_BRO).to(y_BTO.dtype)
        if _may_write(y_BTO, z_BTZ):
            return y_BTO.baddbmm_(z_BTZ, up_BRO)
        return torch.baddbmm(y_BTO, z_BTZ, up_BRO)

    def _own(self, name: str, form: Form) -> Tensor:
        key = (name, form)
        own = self._gathered.get(key)
        if own is None:
            own = self._stacked(name, form).index_select(0, self._which_B)
            if self._kept is not None:
                self._gathered[key] = own
        return own

    def _weighed_up(self, name: str) -> Tensor | None:
        """weight * code * up, kept while a weight stays: a decode step then has one product less.
        None for a weight that is new, as that of causal codes is at each step."""
        weight_BXZ, kept = self.weight_BXZ, self._kept_up.get(name)
        assert weight_BXZ is not None
        if kept is not None and kept[0] is weight_BXZ:
            return kept[1]
        self._kept_up.pop(name, None)
        if self._kept is None or weight_BXZ.shape[1] > 1 or self._last_weight is not weight_BXZ:
            self._last_weight = weight_BXZ
            return None
        up_BRO = self._own(name, "each")
        up_BRO = up_BRO * weight_BXZ.transpose(1, 2).to(up_BRO.dtype)
        self._kept_up[name] = (weight_BXZ, up_BRO)
        del self._gathered[name, "each"]
        return up_BRO


class BlockProducts(RowProducts):
    """A batched product over adapters, each with its run of rows; Z is R."""

    together: Together | None = None
    """Set where the sites of a forward may act as one node."""

    def down(self, x_BTI: Tensor, name: str) -> Tensor:
        down_GIR = self._stacked(name, "each")
        z_GMR = torch.bmm(self._in_blocks(_in_dtype(x_BTI, down_GIR)), down_GIR)
        return z_GMR.view(*x_BTI.shape[:2], -1)

    def linear(self, z_BTZ: Tensor, name: str, bias: str) -> Tensor:
        bias_G1R = self._stacked(bias, "rows").unsqueeze(1)
        out_GMR = torch.baddbmm(bias_G1R, self._in_blocks(z_BTZ), self._stacked(name, "each"))
        return out_GMR.view(z_BTZ.shape)

    def add_up(self, y_BTO: Tensor, z_BTZ: Tensor, name: str) -> Tensor:
        z_BTZ = self._weighed(z_BTZ)
        up_GRO = self._stacked(name, "each")
        z_GMR = self._in_blocks(z_BTZ)
        if _sum_apart(y_BTO, z_BTZ):
            return y_BTO + torch.bmm(z_GMR, up_GRO).view(y_BTO.shape).to(y_BTO.dtype)
        if _may_write(y_BTO, z_BTZ):
            y_BTO.view(self._adapters, -1, y_BTO.shape[-1]).baddbmm_(z_GMR, up_GRO)
            return y_BTO
        return torch.baddbmm(self._in_blocks(y_BTO), z_GMR, up_GRO).view(y_BTO.shape)

    def with_base(self, base: nn.Module, x_BTI: Tensor, down: str, up: str) -> Tensor | None:
        if self.together is None or torch.compiler.is_compiling():
            return None
        return self.together(Call(index=self._stacked.index, base=base, down=down, up=up), x_BTI)

    def site(self, call: Call, x_BTI: Tensor) -> BlockSite | None:
        """What acts at a call, where one node can do it."""
        stacked, weight_BXZ, base = self._stacked, self.weight_BXZ, call.base
        assert weight_BXZ is not None
        if not (isinstance(stacked, SiteStack) and stacked.live and _is_plain_and_frozen(base)):
            return None
        if not x_BTI.dtype == base.weight.dtype == weight_BXZ.dtype == stacked.dtype:
            return None
        if torch.is_autocast_enabled(x_BTI.device.type):
            return None
        return BlockSite(
            base=base,
            weight_BXR=weight_BXZ,
            downs_RI=stacked.parameters(call.down),
            ups_OR=stacked.parameters(call.up),
        )

    def _in_blocks(self, x_BTI: Tensor) -> Tensor:
        return x_BTI.reshape(self._adapters, -1, x_BTI.shape[-1])


PRODUCTS: dict[Layout, type[RowProducts]] = {
    "dense": DenseProducts,
    "gather": GatheredProducts,
    "blocks": BlockProducts,
}


def weights(
    layout: Layout, weight_BX1: Tensor, own_BG: Tensor, codes_BSR: Tensor | None, rank: int
) -> Tensor | Sequence[Tensor]:
    """What `add_up` multiplies z by, (B, X, Z): one for all sites, or one a site where codes are.

    Args:
        weight_BX1: scale times strength, 0 at rows of others.
        own_BG: 1 at each row's adapter.
    """
    if codes_BSR is None:
        if layout != "dense":
            return weight_BX1
        return weight_BX1 * own_BG.repeat_interleave(rank, dim=1).unsqueeze(1)
    coded_BSXR = codes_BSR.unsqueeze(2) * weight_BX1.unsqueeze(1)
    if layout == "dense":
        own_B11G1 = own_BG[:, None, None, :, None]
        coded_BSXR = (coded_BSXR.unsqueeze(3) * own_B11G1).flatten(3)
    return coded_BSXR.unbind(1)


def _in_dtype(x_BTI: Tensor, factor: Tensor) -> Tensor:
    """In the adapter's precision where no autocast decides it."""
    if x_BTI.dtype != factor.dtype and not torch.is_autocast_enabled(x_BTI.device.type):
        return x_BTI.to(factor.dtype)
    return x_BTI


def _is_plain_and_frozen(base: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear whose product is all that its call does."""
    return (
        type(base) is nn.Linear
        and type(base.weight) is nn.Parameter
        and "forward" not in vars(base)
        and not any(parameter.requires_grad for parameter in base.parameters())
        and not (base._forward_hooks or base._forward_pre_hooks)
        and not (base._backward_hooks or base._backward_pre_hooks)
    )


def _may_write(y_BTO: Tensor, z_BTZ: Tensor) -> bool:
    """Whether the sum may go into y, a linear's fresh output: that saves a copy of it."""
    return (
        not torch.is_autocast_enabled(y_BTO.device.type)
        and y_BTO.is_contiguous()
        and not (torch.is_grad_enabled() and (y_BTO.requires_grad or z_BTZ.requires_grad))
    )


def _sum_apart(y_BTO: Tensor, z_BTZ: Tensor) -> bool:
    return y_BTO.dtype != z_BTZ.dtype and not torch.is_autocast_enabled(y_BTO.device.type)
