"""Parameters of adapters of one shape, stacked site by site; kept while they stay what they are.

With gradients on and something to train nothing is kept: the stack is part of the graph, and each
adapter gets its own rows' gradient. It knows neither rows nor hosts.

Legend: G adapters, R rank, I inputs, O outputs, N = G * R.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bem.interfaces import Adapter, AdapterLayer

Form = Literal["side", "each", "rows", "diagonal"]
"""Of G parameters (R, I): side by side (G * R, I); each transposed (G, I, R); stacked as they are
(G, R, I); each transposed on the diagonal (G * I, G * R)."""
_KEPT_STACKS = 8


class SlowRowsWarning(UserWarning):
    """Rows of an adapter that has no stacked form: it runs on its own rows, apart from others."""


class Stack:
    """G adapters with equal `stack_shape`. `stacked` gives one parameter of all at one site."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self.adapters = tuple(adapters)
        self.layers = [layer for layer in adapters[0].layers if isinstance(layer, AdapterLayer)]
        self.dtype = next(self.layers[0].parameters()).dtype
        self._seen = [
            (layer._parameters, name, parameter, _version(parameter))
            for adapter in adapters
            for layer in adapter.layers
            for name, parameter in layer._parameters.items()
            if parameter is not None
        ]
        self._kept: dict[tuple[int, str, Form], Tensor] = {}

    def is_fresh(self) -> bool:
        """Whether the parameters are those that were stacked, unchanged."""
        for where, name, parameter, version in self._seen:
            if where[name] is not parameter or version is None or parameter._version != version:
                return False
        return True

    def num_bytes(self) -> int:
        """Of the layers of one adapter."""
        return sum(p.numel() * p.element_size() for _, _, p, _ in self._seen) // len(self.adapters)

    def is_live(self) -> bool:
        """Whether a forward that begins now must have the stack in its graph."""
        return torch.is_grad_enabled() and any(p.requires_grad for _, _, p, _ in self._seen)

    def stacked(self, index: int, live: bool, name: str, form: Form) -> Tensor:
        """Parameter `name` of the layers at site `index`; `live`: as a part of the graph."""
        if live:
            return _stack(self._parameters(index, name), form)
        key = (index, name, form)
        kept = self._kept.get(key)
        if kept is None:
            with torch.inference_mode(False), torch.no_grad():
                kept = _stack(self._parameters(index, name), form).contiguous()
            self._kept[key] = kept
        return kept

    def _parameters(self, index: int, name: str) -> list[Tensor]:
        sources = [adapter.layers[index]._parameters[name] for adapter in self.adapters]
        return [p for p in sources if p is not None]


class StackKeeper:
    """The stacks that a host used last, by their adapters."""

    def __init__(self) -> None:
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._told: set[str] = set()

    def get(self, adapters: Sequence[Adapter]) -> Stack:
        """A stack of these adapters as they are now."""
        key = tuple(id(adapter) for adapter in adapters)
        stack = self._stacks.pop(key, None)
        if stack is None or not stack.is_fresh():
            stack = Stack(adapters)
        self._stacks[key] = stack
        while len(self._stacks) > _KEPT_STACKS:
            del self._stacks[next(iter(self._stacks))]
        return stack

    def tell(self, slow: Sequence[str]) -> None:
        """Say once which adapters have no stacked form."""
        new = [label for label in slow if label not in self._told]
        self._told.update(new)
        if new:
            warnings.warn(
                f"No stacked form for {', '.join(new)}: in a mixed batch they run on their own "
                "rows, one adapter after the other.",
                SlowRowsWarning,
                stacklevel=2,
            )

    def clear(self) -> None:
        """Forget all of them."""
        self._stacks.clear()


def _stack(parameters: Sequence[Tensor], form: Form) -> Tensor:
    if form == "side":
        return torch.cat(list(parameters))
    if form == "rows":
        return torch.stack(list(parameters))
    if form == "diagonal":
        blocks: Tensor = torch.block_diag(*[p.t() for p in parameters])  # type: ignore[no-untyped-call]
        return blocks
    return torch.stack([p.t() for p in parameters])


def _version(parameter: Tensor) -> int | None:
    """What changes with each change in place; None where torch does not count them."""
    return None if parameter.is_inference() else parameter._version
