"""Frozen linears of one input, and the low-rank deltas of G adapters, each on its block of the
rows, as one node of the training graph.

    y_s = W_s x + b_s + up_s (w_s z_s)    z_s = down_s x            g_s: the gradient of y_s
    d(w z)_s = g_s up_s                   d(up_s) = g_s^T (w_s z_s)
    dz_s = w_s d(w z)_s                   dw_s = d(w z)_s z_s       d(down_s) = dz_s^T x
    dx = sum_s (g_s W_s + dz_s down_s)

The same as the linears and the products of `BlockProducts` one by one. The sums go into what is
there already, each parameter gets its own gradient in its own layout, and the downs of linears that
read one tensor (query, key and value; gate and up) stand side by side: less memory is written and
fewer nodes run, which is where a packed step's time goes. It knows no adapter.

Legend: G adapters, M rows of one block times positions, B rows, T positions, I inputs, O outputs,
R rank, S linears, N = S * R, X = 1 or T; a weight's last two are rows of a block and X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockSite:
    """One linear and what acts there."""

    base: nn.Linear
    """Frozen: it gets no gradient."""
    weight_BXR: Tensor
    """R may be 1."""
    downs_RI: Sequence[Tensor]
    ups_OR: Sequence[Tensor]


def block_linears(x_BTI: Tensor, sites: Sequence[BlockSite]) -> tuple[Tensor, ...]:
    """base(x) + up (weight * (down x)) at each site, block g of the rows by adapter g.

    Args:
        sites: all of one rank and one number of adapters.
    """
    weights = [site.weight_BXR for site in sites]
    if all(weight is weights[0] for weight in weights):
        weights = weights[:1]
    shape = _Shape(sites=len(sites), weights=len(weights), count=len(sites[0].downs_RI))
    made: tuple[Tensor, ...] = _BlockLinears.apply(  # type: ignore[no-untyped-call]
        shape,
        x_BTI,
        *weights,
        *(site.base.weight for site in sites),
        *(site.base.bias for site in sites),
        *(down for site in sites for down in site.downs_RI),
        *(up for site in sites for up in site.ups_OR),
    )
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """How many of each stand in the flat list of inputs."""

    sites: int
    weights: int
    """One a site, or one for all."""
    count: int
    """Adapters."""


class _BlockLinears(torch.autograd.Function):
    """Low-rank products stand rank first, (G, N, M): of ranks this small they take 0.5 to 0.9 of
    the time of the other way round, and a site's part is written in place."""

    @staticmethod
    def forward(
        ctx: Any, shape: _Shape, x_BTI: Tensor, *given: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        sites, count = shape.sites, shape.count
        at = shape.weights
        weights: Any = given[:at]
        bases_OI, biases_O = given[at : at + sites], given[at + sites : at + 2 * sites]
        factors: Any = given[at + 2 * sites :]
        down_GNI = _side_by_side(factors[: sites * count], count)
        ups_GRO = [
            torch.cat([up_OR.t() for up_OR in factors[s : s + count]]).view(
                count, -1, len(factors[s])
            )
            for s in range(sites * count, len(factors), count)
        ]
        weight_GNXX = _weight(weights, ups_GRO[0].shape[1], sites, count)
        z_GNM = torch.bmm(down_GNI, _in_blocks(x_BTI, count).mT)
        weighed_GNM = _weigh(z_GNM, weight_GNXX)
        ys = []
        for s, weighed_GRM in enumerate(weighed_GNM.chunk(sites, 1)):
            y_BTO = nn.functional.linear(x_BTI, bases_OI[s], biases_O[s])  # type: ignore[arg-type]
            _in_blocks(y_BTO, count).baddbmm_(weighed_GRM.mT, ups_GRO[s])
            ys.append(y_BTO)
        ctx.shape = shape
        ctx.save_for_backward(x_BTI, z_GNM, weight_GNXX, down_GNI, *ups_GRO, *bases_OI)
        ctx.weight_shapes = [weight.shape for weight in weights]
        return tuple(ys)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        sites, count = ctx.shape.sites, ctx.shape.count
        x_BTI, z_GNM, weight_GNXX, down_GNI, *rest = ctx.saved_tensors
        ups_GRO, bases_OI = rest[:sites], rest[sites:]
        _, wants_x, *wants = ctx.needs_input_grad
        wants_weights = wants[: ctx.shape.weights]
        wants_factors = wants[ctx.shape.weights + 2 * sites :]
        wants_down, wants_up = wants_factors[: sites * count], wants_factors[sites * count :]
        weighed = _weigh(z_GNM, weight_GNXX).chunk(sites, 1) if any(wants_up) else None
        ups: list[Tensor | None] = []
        d_GNM = torch.empty_like(z_GNM)
        dx_MI = None
        for s, (g_BTO, d_GRM) in enumerate(zip(grads, d_GNM.chunk(sites, 1), strict=True)):
            if g_BTO is None:  # nobody read this output
                ups += [None] * count
                d_GRM.zero_()
                continue
            g_GMO = _in_blocks(g_BTO, count)
            if weighed is not None and any(wants_up[s * count : (s + 1) * count]):
                ups += torch.bmm(weighed[s], g_GMO).mT.contiguous().unbind()
            else:
                ups += [None] * count
            torch.bmm(ups_GRO[s], g_GMO.mT, out=d_GRM)
            if wants_x:
                g_MO = g_GMO.flatten(0, 1)
                if dx_MI is None:
                    dx_MI = g_MO @ bases_OI[s]
                else:
                    dx_MI.addmm_(g_MO, bases_OI[s])
        weights: list[Any] = [None] * ctx.shape.weights
        if any(wants_weights):
            each = (d_GNM * z_GNM).view(*d_GNM.shape[:2], -1, x_BTI.shape[1])
            each_BTR = each.permute(0, 2, 3, 1).flatten(0, 1).chunk(sites, 2)
            shapes = ctx.weight_shapes * (sites // len(weights))
            weights = [p.sum_to_size(shape) for p, shape in zip(each_BTR, shapes, strict=True)]
            if len(ctx.weight_shapes) == 1:
                weights = [torch.stack(weights).sum(0)]
        d_GNM = _weigh(d_GNM, weight_GNXX)
        downs: list[Tensor | None] = [None] * (sites * count)
        if any(wants_down):
            ddown_GNI = torch.bmm(d_GNM, _in_blocks(x_BTI, count))
            for s, of_site in enumerate(ddown_GNI.chunk(sites, 1)):
                if grads[s] is not None:
                    downs[s * count : (s + 1) * count] = of_site.unbind()
        dx_BTI = None
        if dx_MI is not None:
            dx_BTI = dx_MI.view(x_BTI.shape)
            _in_blocks(dx_BTI, count).baddbmm_(d_GNM.mT, down_GNI)
        return None, dx_BTI, *weights, *[None] * (2 * sites), *downs, *ups


def _side_by_side(downs_RI: Sequence[Tensor], count: int) -> Tensor:
    """(G, N, I) of all sites' downs, site by site."""
    by_adapter = [down for g in range(count) for down in downs_RI[g::count]]
    return torch.cat(by_adapter).view(count, -1, downs_RI[0].shape[1])


def _weight(weights: Sequence[Tensor], rank: int, sites: int, count: int) -> Tensor:
    """(G, N, B / G, X), or (G, 1, B / G, X) for all of N."""
    if len(weights) == 1 and (sites == 1 or weights[0].shape[2] == 1):
        weight_BXN = weights[0]
    else:
        width = max(weight.shape[1] for weight in weights)
        wide = [weight.expand(-1, width, rank) for weight in weights]
        weight_BXN = torch.cat(wide * (sites // len(wide)), dim=2)
    return weight_BXN.view(count, -1, *weight_BXN.shape[1:]).permute(0, 3, 1, 2)


def _weigh(z_GNM: Tensor, weight_GNXX: Tensor) -> Tensor:
    by_row = z_GNM.view(*z_GNM.shape[:2], weight_GNXX.shape[2], -1)
    return (by_row * weight_GNXX).view(z_GNM.shape)


def _in_blocks(x_BTI: Tensor, count: int) -> Tensor:
    return x_BTI.reshape(count, -1, x_BTI.shape[-1])
