"""Parameters of adapters of one shape, stacked site by site; kept while they stay what they are.

With gradients on and something to train nothing is kept: the stack is part of the graph, and each
adapter gets its own rows' gradient. It knows neither rows nor hosts.

Legend: G adapters, R rank, I inputs, O outputs, N = G * R.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bem.interfaces import Adapter, AdapterLayer, StackShape
from bem.mixed.controllers import StackedControllers, alike
from bem.mixed.together import Readers

Form = Literal["side", "each", "below", "rows", "diagonal"]
"""Of G parameters (R, I): side by side (G * R, I); each transposed, stacked (G, I, R), one below
the other (G * I, R), or on the diagonal (G * I, G * R); stacked as they are (G, R, I)."""
_KEPT_STACKS = 8


class SlowRowsWarning(UserWarning):
    """Rows of an adapter that has no stacked form: it runs on its own rows, apart from others."""


class Stack:
    """G adapters with equal `stack_shape`. `stacked` gives one parameter of all at one site."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self.adapters = tuple(adapters)
        self.layers = [layer for layer in adapters[0].layers if isinstance(layer, AdapterLayer)]
        self.dtype = next(self.layers[0].parameters()).dtype
        controllers = alike(adapters)
        self._seen = _Seen([adapter.layers for adapter in adapters])
        self._layers = [_layers_of(adapter) for adapter in adapters]
        # Asked for at each site of each forward: looking modules up would take twice as long.
        self._tables = [[layer._parameters for layer in own] for own in self._layers]
        self._seen_controllers = _Seen([[controller] for controller in controllers])
        self._controllers: StackedControllers | None = None
        self._to_stack = controllers
        self._kept: dict[tuple[int, str, Form], Tensor] = {}
        self._kept_gated: dict[int, tuple[Tensor, Tensor]] = {}
        size = sum(p.numel() * p.element_size() for p in self._seen.parameters)
        self.num_bytes = size // len(adapters)
        """Of the layers of one adapter."""

    def is_fresh(self) -> bool:
        """Whether layers and parameters are those that were stacked, unchanged."""
        return (
            list(map(_layers_of, self.adapters)) == self._layers
            and self._seen.unchanged()
            and self._seen_controllers.unchanged()
        )

    def forget(self) -> None:
        """Drop what is kept: the parameters may be about to change."""
        self._kept.clear()
        self._kept_gated.clear()
        self._controllers = None

    def controllers(self) -> StackedControllers | None:
        """The adapters' controllers as one, where they have such; not a part of any graph."""
        if self._controllers is None and self._to_stack:
            self._controllers = StackedControllers(self._to_stack)
        return self._controllers

    def is_live(self) -> bool:
        """Whether a forward that begins now must have the stack in its graph."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in self._seen.parameters)

    def stacked(self, index: int, live: bool, name: str, form: Form) -> Tensor:
        """Parameter `name` of the layers at site `index`; `live`: as a part of the graph."""
        if live:
            return _stack(self.parameters(index, name), form)
        key = (index, name, form)
        kept = self._kept.get(key)
        if kept is None:
            with torch.inference_mode(False), torch.no_grad():
                kept = _stack(self.parameters(index, name), form).contiguous()
            self._kept[key] = kept
        return kept

    def gated(self, index: int, down: str, gate: str, bias: str) -> tuple[Tensor, Tensor]:
        """Weight (2 * G * R, I) and bias of one product that gives z = down x and gate z + bias;
        not a part of any graph."""
        kept = self._kept_gated.get(index)
        if kept is None:
            with torch.inference_mode(False), torch.no_grad():
                downs, gates = self.parameters(index, down), self.parameters(index, gate)
                gated = [g @ d for g, d in zip(gates, downs, strict=True)]
                bias_N = torch.cat(self.parameters(index, bias))
                kept = torch.cat([*downs, *gated]), torch.cat([torch.zeros_like(bias_N), bias_N])
            self._kept_gated[index] = kept
        return kept

    def parameters(self, index: int, name: str) -> list[Tensor]:
        """Parameter `name` of the layers at site `index`, one an adapter."""
        sources = [tables[index][name] for tables in self._tables]
        return [p for p in sources if p is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteStack:
    """A stack at one site, for one forward."""

    stack: Stack
    index: int
    live: bool
    """Whether what it gives is a part of the graph."""

    def __call__(self, name: str, form: Form) -> Tensor:
        return self.stack.stacked(self.index, self.live, name, form)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.stack.dtype

    def parameters(self, name: str) -> list[Tensor]:
        """See `Stack.parameters`."""
        return self.stack.parameters(self.index, name)

    def gated(self, down: str, gate: str, bias: str) -> tuple[Tensor, Tensor]:
        """See `Stack.gated`."""
        return self.stack.gated(self.index, down, gate, bias)


def _layers_of(adapter: Adapter) -> list[nn.Module]:
    return [*adapter.layers]


class _Seen:
    """Parameters as they were. Asked at each forward, of hundreds: so without a Python loop."""

    def __init__(self, adapters: Sequence[Iterable[nn.Module]]) -> None:
        """`adapters`: the modules of each."""
        found = [
            [
                (module._parameters, name, parameter)
                for module in modules
                for name, parameter in module._parameters.items()
                if parameter is not None
            ]
            for modules in adapters
        ]
        entries = [entry for own in found for entry in own]
        self._where = [where for where, _, _ in entries]
        self._names = [name for _, name, _ in entries]
        self.parameters = [parameter for _, _, parameter in entries]
        self._counted = not any(parameter.is_inference() for parameter in self.parameters)
        self._versions = list(map(_version, self.parameters)) if self._counted else []
        # `module.to` changes neither identity nor version, but moves all of an adapter.
        self._firsts = [own[0][2] for own in found if own]
        self._memory = list(map(Tensor.data_ptr, self._firsts))
        self._aliases = [parameter.detach() for parameter in self._firsts]
        """They hold the memory, so that no other tensor gets its address."""

    def unchanged(self) -> bool:
        """The same tensors with the same values; those whose changes torch does not count never."""
        now = map(operator.getitem, self._where, self._names)
        return (
            self._counted
            and all(map(operator.is_, now, self.parameters))
            and list(map(_version, self.parameters)) == self._versions
            and list(map(Tensor.data_ptr, self._firsts)) == self._memory
        )


_version = operator.attrgetter("_version")
"""What changes with each change in place."""


class StackKeeper:
    """The stacks that a host used last, by their adapters."""

    def __init__(self) -> None:
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._told: set[str] = set()
        self._readers: dict[StackShape, Readers] = {}

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

    def readers(self, shape: StackShape) -> Readers:
        """Which sites of such adapters read one tensor; to be learnt in forwards."""
        return self._readers.setdefault(shape, {})

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

    def forget(self) -> None:
        """Drop what the stacks keep. A fused optimizer's step changes parameters without torch
        counting it, so nothing that a stack made before a forward with gradients outlasts it. Rows
        that are being decoded keep what they gathered: no training comes between their steps."""
        for stack in self._stacks.values():
            stack.forget()

    def clear(self) -> None:
        """Forget all of them."""
        self._stacks.clear()
        self._readers.clear()


def _stack(parameters: Sequence[Tensor], form: Form) -> Tensor:
    if form == "side":
        return torch.cat(list(parameters))
    if form == "rows":
        return torch.stack(list(parameters))
    if form == "below":
        return torch.cat([p.t() for p in parameters])
    if form == "diagonal":
        blocks: Tensor = torch.block_diag(*[p.t() for p in parameters])  # type: ignore[no-untyped-call]
        return blocks
    return torch.stack([p.t() for p in parameters])
