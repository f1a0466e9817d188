"""One forward of a mixed batch: which layers act at each linear, and on which rows.

Adapters of one `stack_shape` act together by stacked products; the others each on their own rows,
which is said in a warning. It knows no kind of adapter.

Legend: B rows, T positions, I inputs, O outputs, G adapters of one shape, R rank, S sites, M rows
of one adapter, X = 1 or T.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bem.interfaces import Adapter, AdapterLayer, StackShape
from bem.mixed.products import PRODUCTS, Layout, choose_layout, weights
from bem.mixed.rows import Part, Split
from bem.mixed.stack import Stack, StackKeeper

Layer = Callable[[Tensor, Tensor], Tensor]


class MixedForward:
    """Built at the start of a forward; `code` once the codes of a feature layer are there."""

    def __init__(
        self,
        split: Split,
        adapters: Mapping[str, Adapter],
        keeper: StackKeeper,
        *,
        tokens: int,
    ) -> None:
        """`adapters`: those that act in this forward, of the split's."""
        self.split = split
        shapes: dict[StackShape, list[str]] = {}
        self.alone: list[str] = []
        for name, adapter in adapters.items():
            shape = None if split.parts[name].context.record else adapter.stack_shape()
            if shape is None:
                self.alone.append(name)
            else:
                shapes.setdefault(shape, []).append(name)
        keeper.tell([f"{n} ({adapters[n].kind})" for n in self.alone if self._is_slow(n)])
        self._adapters = adapters
        self._groups = [
            StackedRows(names, split, keeper.get([adapters[n] for n in names]), tokens)
            for names in shapes.values()
        ]
        self.code()

    def _is_slow(self, name: str) -> bool:
        part = self.split.parts[name]
        return not part.context.record and len(part.places) < len(self.split.rows)

    def code(self) -> None:
        """Give the stacks their codes, as far as they are known by now."""
        for group in self._groups:
            group.code()

    def layers(self) -> dict[str, list[Layer]]:
        """What acts at each linear, by its path."""
        acting: dict[str, list[Layer]] = {}
        for group in self._groups:
            for index, site in enumerate(group.sites):
                acting.setdefault(site.name, []).append(functools.partial(group.act, index))
        for name in self.alone:
            adapter, part = self._adapters[name], self.split.parts[name]
            for site, layer in zip(adapter.sites, adapter.layers, strict=True):
                act = functools.partial(_act_alone, layer, part, len(self.split.rows))
                acting.setdefault(site.name, []).append(act)
        return acting


class StackedRows:
    """Adapters of one shape over their rows of the batch."""

    def __init__(self, names: Sequence[str], split: Split, stack: Stack, tokens: int) -> None:
        self.sites = stack.adapters[0].sites
        self._stack = stack
        shape = stack.adapters[0].stack_shape()
        assert shape is not None
        self._rank = shape.rank
        self._parts = [split.parts[name] for name in names]
        self._names = names
        self._count = len(split.rows)
        place = {name: g for g, name in enumerate(names)}
        device = self._parts[0].index_M.device
        self._which_B = torch.tensor([place.get(row, 0) for row in split.rows], device=device)
        self._layout: Layout = choose_layout(
            adapters=len(names), tokens=tokens, in_runs=_in_runs(split.rows, names)
        )
        self._weight_BX1 = self._row_weights()
        self._weights: Tensor | Sequence[Tensor] | None = None

    def code(self) -> None:
        """Take the sequence codes of all adapters, once they are there."""
        if self._weights is not None:
            return
        first = self._stack.adapters[0]
        codes_BSR = None
        if first.feature_layer is not None:
            cached = [p.context.cache.get(n) for n, p in zip(self._names, self._parts, strict=True)]
            known = [code for code in cached if code is not None]
            ready = all(bool(adapter.state.codes) for adapter in self._stack.adapters)
            if not ready or len(known) < len(self._parts):
                return
            codes_BSR = known[0].new_zeros(self._count, *known[0].shape[1:])
            codes_BSR = codes_BSR.index_copy(0, self._rows(), torch.cat(known))
        own_BG = torch.zeros(self._count, len(self._parts), device=self._which_B.device)
        own_BG.scatter_(1, self._which_B[:, None], 1.0)
        self._weights = weights(self._layout, self._weight_BX1, own_BG, codes_BSR, self._rank)

    def act(self, index: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        """The site's output with the deltas of all rows."""
        assert self._weights is not None
        weight = self._weights if isinstance(self._weights, Tensor) else self._weights[index]
        products = PRODUCTS[self._layout](
            functools.partial(self._stack.stacked, index),
            self._which_B,
            len(self._parts),
            weight,
        )
        layer = self._stack.adapters[0].layers[index]
        assert isinstance(layer, AdapterLayer)
        return layer.mixed(products, x_BTI, y_BTO)

    def _rows(self) -> Tensor:
        return torch.cat([part.index_M for part in self._parts])

    def _row_weights(self) -> Tensor:
        """Scale times strength, 0 at rows of others."""
        adapters = self._stack.adapters
        device = self._which_B.device
        numbers = [0.0] * self._count
        for adapter, part in zip(adapters, self._parts, strict=True):
            for row in part.places:
                numbers[row] = adapter.stack_scale() * adapter.state.strength
        weight_BX1 = torch.tensor(numbers, device=device)[:, None, None]
        found = [adapter.state.strength_rows for adapter in adapters]
        width = max((rows.shape[1] for rows in found if rows is not None), default=0)
        if not width:
            return weight_BX1
        strength_BX1 = torch.ones(self._count, width, 1, device=device)
        for rows, part in zip(found, self._parts, strict=True):
            if rows is not None:
                own = rows.to(strength_BX1.dtype).expand(len(part.places), width, 1)
                strength_BX1 = strength_BX1.index_copy(0, part.index_M, own)
        return weight_BX1 * strength_BX1


def _act_alone(layer: AdapterLayer, part: Part, count: int, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
    if len(part.places) == count:
        return layer(x_BTI, y_BTO)  # type: ignore[no-any-return]
    own = layer(part.of(x_BTI), part.of(y_BTO))
    return y_BTO.index_copy(0, part.index_M, own)


def _in_runs(rows: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the rows stand in one run an adapter, all of one length, in the order of `names`."""
    length, rest = divmod(len(rows), len(names))
    return not rest and list(rows) == [name for name in names for _ in range(length)]
