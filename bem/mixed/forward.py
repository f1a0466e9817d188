"""One forward of a mixed batch: which layers act at each linear, and on which rows.

Adapters of one `stack_shape` act together by stacked products; the others each on their own rows,
which is said in a warning. It knows no kind of adapter.

Legend: B rows, T positions, I inputs, O outputs, G adapters of one shape, R rank, S sites, M rows
of one adapter, X = 1 or T.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bem.context import Row
from bem.forward.wrapping import Layer, WithBase
from bem.interfaces import Adapter, AdapterLayer, StackShape
from bem.mixed.block_linear import BlockSite
from bem.mixed.inputs import SharedInputs
from bem.mixed.products import (
    PRODUCTS,
    BlockProducts,
    Factors,
    Layout,
    RowProducts,
    choose_layout,
    weights,
)
from bem.mixed.rows import Part, Split, names_of
from bem.mixed.selection import Selection
from bem.mixed.stack import SiteStack, Stack, StackKeeper
from bem.mixed.together import Call, Readers, Together

KEPT_BYTES = 256 << 20
"""Gathered factors of all rows stay between decode steps up to this size (measured: 32 rows of 32
rank-8 LoRAs on a base of d = 128 keep 7 MB and a step takes 0.8 of the time)."""
MOST_MATES = 64
"""Up to so many adapters of one shape stand in one stack, whoever acts: where rows come and go, a
stack for each selection would be made again and again."""


class MixedForward:
    """Built at the start of a forward; `code` once the codes of a feature layer are there. One that
    `can_stay` serves the decode steps after it too, each begun by `code`."""

    def __init__(
        self,
        split: Split,
        adapters: Mapping[str, Adapter],
        keeper: StackKeeper,
        *,
        host: Mapping[str, Adapter],
        tokens: int,
        decoding: bool,
    ) -> None:
        """`adapters`: those that act in this forward, of the split's; `host`: all there are."""
        self.split = split
        self._adapters = adapters
        self.can_stay = decoding and not torch.is_grad_enabled()
        shapes: dict[StackShape | None, list[str]] = {}
        for name, adapter in adapters.items():
            shape = None if split.parts[name].context.record else adapter.kept_stack_shape
            shapes.setdefault(shape, []).append(name)
        self._alone = shapes.pop(None, [])
        keeper.tell([f"{n} ({adapters[n].kind})" for n in self._alone if self._is_slow(n)])
        self._groups = []
        together = not torch.is_grad_enabled()
        for shape, alike in shapes.items():
            mates = _mates(shape, host)
            for names in _apart([n for n in mates if n in alike], split):
                shared = together and 1 < len(names) < len(mates) <= MOST_MATES
                chosen = mates if shared else names
                stack = keeper.get([host[n] for n in chosen])
                group = StackedRows(names, chosen, split, stack, tokens, keep=self.can_stay)
                if shape is not None:
                    group.join(keeper.readers(shape))
                self._groups.append(group)
        self.code()

    @classmethod
    def at(
        cls,
        split: Split,
        adapters: Mapping[str, Adapter],
        keeper: StackKeeper,
        *,
        host: Mapping[str, Adapter],
        tokens: int,
        decoding: bool,
    ) -> MixedForward:
        """The one that an earlier decode step of this split left, or a new one."""
        key = (*adapters, tokens)
        kept: MixedForward | None = split.kept.get(key)
        if kept is not None and decoding and not torch.is_grad_enabled():
            kept.code()
            return kept
        made = cls(split, adapters, keeper, host=host, tokens=tokens, decoding=decoding)
        if made.can_stay:
            split.kept[key] = made
        return made

    def encode(self, layer: int, h_BTD: Tensor, prefix_mask_BT: Tensor | None) -> None:
        """Codes of a prefill that a stack's controllers, run as one, read at decoder `layer`."""
        if prefix_mask_BT is None or prefix_mask_BT.shape != h_BTD.shape[:2]:
            return
        for group in self._groups:
            group.encode(layer, h_BTD, prefix_mask_BT)

    def code(self) -> None:
        """Give the stacks their codes, as far as they are known by now."""
        for group in self._groups:
            group.weigh()

    def layers(self) -> dict[str, tuple[list[Layer], WithBase | None]]:
        """What acts at each linear, by its path; and what does the same with the base in it."""
        acting: dict[str, list[Layer]] = {}
        for group in self._groups:
            for path, act in group.acts:
                acting.setdefault(path, []).append(act)
        for name in self._alone:
            adapter, part = self._adapters[name], self.split.parts[name]
            for site, layer in zip(adapter.sites, adapter.layers, strict=True):
                assert isinstance(layer, AdapterLayer)
                alone = functools.partial(_act_alone, layer, part, len(self.split.rows))
                acting.setdefault(site.name, []).append(alone)
        return {path: (layers, _with_base(layers)) for path, layers in acting.items()}

    def _is_slow(self, name: str) -> bool:
        part = self.split.parts[name]
        return not part.context.record and len(part.places) < len(self.split.rows)


@dataclass(frozen=True, slots=True)
class StackedSite:
    """What a stack does at one linear."""

    layer: AdapterLayer
    products: RowProducts

    def __call__(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        return self.layer.mixed(self.products, x_BTI, y_BTO)

    def with_base(self, base: nn.Module, x_BTI: Tensor) -> Tensor | None:
        """See `AdapterLayer.mixed_with_base`."""
        return self.layer.mixed_with_base(self.products, base, x_BTI)


class StackedRows:
    """Adapters of one shape over their rows of the batch; kept over decode steps."""

    def __init__(
        self,
        names: Sequence[str],
        stacked: Sequence[str],
        split: Split,
        stack: Stack,
        tokens: int,
        *,
        keep: bool,
    ) -> None:
        """`stacked`: the names of the stack's adapters, of which `names` act. `keep`: it serves
        many forwards, so that what is gathered may stay."""
        self._stack = stack
        place = {name: g for g, name in enumerate(stacked)}
        self._adapters = [stack.adapters[place[name]] for name in names]
        self._names = tuple(names)
        self._parts = [split.parts[name] for name in names]
        self._count = len(split.rows)
        shape = stack.adapters[0].kept_stack_shape
        assert shape is not None
        self._rank = shape.rank
        self._coded = stack.adapters[0].feature_layer is not None
        device = self._parts[0].index_M.device
        self._which_B = _which(split.rows, stacked, device)
        """Of the whole stack."""
        live = stack.is_live()
        stays = keep and not live and stack.num_bytes * self._count <= KEPT_BYTES
        self._layout: Layout = "gather"
        if not stays or self._count > len(names):
            # Where each row has an adapter of its own, what was gathered once is quickest.
            self._layout = choose_layout(
                adapters=len(names), tokens=tokens, in_runs=_in_runs(split.rows, names)
            )
        sites = [
            SiteStack(stack=stack, index=index, live=live) for index in range(len(stack.layers))
        ]
        factors: Sequence[Factors] = sites
        which_B, count = self._which_B, len(stacked)
        if len(names) < len(stacked) and self._layout != "gather":
            chosen_G = torch.tensor([place[name] for name in names], device=device)
            factors = [Selection(site, chosen_G) for site in sites]
            which_B, count = _which(split.rows, names, device), len(names)
        self._own_BG = torch.nn.functional.one_hot(which_B, count).to(stack.dtype)
        self._inputs = SharedInputs() if stays else None
        self._products = [
            PRODUCTS[self._layout](factor, which_B, count, kept=self._inputs) for factor in factors
        ]
        self._blocks = [p for p in self._products if isinstance(p, BlockProducts)]
        self.acts = [
            (site.name, StackedSite(layer, products))
            for site, layer, products in zip(
                stack.adapters[0].sites, stack.layers, self._products, strict=True
            )
        ]
        self._weighed: tuple[Any, ...] | None = None

    def join(self, readers: Readers) -> None:
        """Where it trains, sites that read one tensor act as one node."""
        if not self._blocks or not self._stack.is_live():
            return
        rows = weakref.ref(self)  # the products lead here: a cycle would outlast the forward

        def site(call: Call, x_BTI: Tensor) -> BlockSite | None:
            own = rows()
            return None if own is None else own._blocks[call.index].site(call, x_BTI)

        together = Together(readers, site)
        for products in self._blocks:
            products.together = together

    def encode(self, layer: int, h_BTD: Tensor, prefix_mask_BT: Tensor) -> None:
        """The codes of all rows at once, where nobody trains and none has a code yet."""
        first = self._adapters[0]
        if torch.is_grad_enabled() or not self._coded or first.feature_layer != layer:
            return
        if any(adapter.state.codes for adapter in self._adapters):
            return
        controllers = self._stack.controllers()
        if controllers is None:
            return
        codes_BN = controllers(h_BTD, prefix_mask_BT, self._which_B)
        codes_BSR = codes_BN.view(len(codes_BN), len(first.sites), -1)
        for name, adapter, part in zip(self._names, self._adapters, self._parts, strict=True):
            codes_MSR = part.of(codes_BSR)
            part.context.cache[name] = codes_MSR
            # Not by site, and not to be taken over: layers of a stack read its weights.
            adapter.state.codes, adapter.state.spread_of = (codes_MSR,), None

    def weigh(self) -> None:
        """Put scales, strengths and codes into the products, once codes are there."""
        if self._inputs is not None:
            self._inputs.begin()
        codes: list[Tensor] = []
        if self._coded:
            if not all(adapter.state.codes for adapter in self._adapters):
                return
            codes = [p.context.cache[n] for n, p in zip(self._names, self._parts, strict=True)]
        found = [adapter.state.strength_rows for adapter in self._adapters]
        numbers = [adapter.state.strength for adapter in self._adapters]
        weighed = (numbers, found, codes)
        if self._weighed is not None and _same(self._weighed, weighed):
            return
        self._weighed = weighed
        weight_BX1 = self._row_weights(numbers, found)
        codes_BSR = None
        if codes:
            codes_BSR = codes[0].new_zeros(self._count, *codes[0].shape[1:])
            index_M = torch.cat([part.index_M for part in self._parts])
            codes_BSR = codes_BSR.index_copy(0, index_M, torch.cat(codes))
        made = weights(self._layout, weight_BX1, self._own_BG, codes_BSR, self._rank)
        for index, products in enumerate(self._products):
            products.weight_BXZ = made if isinstance(made, Tensor) else made[index]

    def _row_weights(self, numbers: list[float], found: list[Tensor | None]) -> Tensor:
        """Scale times strength, 0 at rows of others."""
        device = self._own_BG.device
        scales = [0.0] * self._count
        for adapter, number, part in zip(self._adapters, numbers, self._parts, strict=True):
            for row in part.places:
                scales[row] = adapter.stack_scale() * number
        weight_BX1 = torch.tensor(scales, device=device, dtype=self._stack.dtype)[:, None, None]
        width = max((rows.shape[1] for rows in found if rows is not None), default=0)
        if not width:
            return weight_BX1
        strength_BX1 = torch.ones_like(weight_BX1).repeat(1, width, 1)
        for rows, part in zip(found, self._parts, strict=True):
            if rows is not None:
                own = rows.to(strength_BX1.dtype).expand(len(part.places), width, 1)
                strength_BX1 = strength_BX1.index_copy(0, part.index_M, own)
        return weight_BX1 * strength_BX1


def _with_base(layers: Sequence[Layer]) -> WithBase | None:
    only = layers[0] if len(layers) == 1 else None
    return only.with_base if isinstance(only, StackedSite) else None


def _same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    """Equal numbers, no strengths in tensors, and the very same codes."""
    numbers, found, codes = now
    return (
        numbers == before[0]
        and all(rows is None for rows in (*found, *before[1]))
        and len(codes) == len(before[2])
        and all(a is b for a, b in zip(codes, before[2], strict=True))
    )


def _act_alone(layer: AdapterLayer, part: Part, count: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    if len(part.places) == count:
        return layer(x_BTI, y_BTO)  # type: ignore[no-any-return]
    own = layer(part.of(x_BTI), part.of(y_BTO))
    return y_BTO.index_copy(0, part.index_M, own)


def _mates(shape: StackShape | None, host: Mapping[str, Adapter]) -> list[str]:
    """All adapters of one shape, in the host's order."""
    return [name for name, adapter in host.items() if adapter.kept_stack_shape == shape]


def _apart(names: Sequence[str], split: Split) -> list[list[str]]:
    """The names in groups of which a row has one adapter each."""
    if all(len(names_of(row)) < 2 for row in split.rows):
        return [list(names)]
    groups: list[tuple[list[str], set[int]]] = []
    for name in names:
        places = split.parts[name].places
        for members, taken in groups:
            if taken.isdisjoint(places):
                members.append(name)
                taken.update(places)
                break
        else:
            groups.append(([name], set(places)))
    return [members for members, _ in groups]


def _which(rows: Sequence[Row], names: Sequence[str], device: torch.device) -> Tensor:
    """(B,) the place among `names` of each row's adapter; 0 at rows of none of them."""
    place = {name: g for g, name in enumerate(names)}
    which = [next((place[n] for n in names_of(row) if n in place), 0) for row in rows]
    return torch.tensor(which, device=device)


def _in_runs(rows: Sequence[Row], names: Sequence[str]) -> bool:
    """Whether the rows stand in one run an adapter, all of one length, in the order of `names`."""
    length, rest = divmod(len(rows), len(names))
    return not rest and list(rows) == [name for name in names for _ in range(length)]
