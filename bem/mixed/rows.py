"""A mixed batch split by adapter: which rows are whose, and a routing context for each.

An adapter sees its own rows only, so codes, side signals, strengths and causal state of others
cannot reach it. The split lives in the whole context for all decode steps. It knows no adapter.

Legend: B rows, M rows of one adapter, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bem.context import RoutingContext, Row, Strength
from bem.errors import RoutingError

BASE_ROW = "__base__"
"""The name of no adapter: such a row is the base's."""


def names_of(row: Row) -> tuple[str, ...]:
    """The adapters of one row."""
    if isinstance(row, tuple):
        return row
    return () if row == BASE_ROW else (row,)


@dataclass(kw_only=True, slots=True, eq=False)
class Part:
    """The rows of one adapter."""

    places: tuple[int, ...]
    """Which rows, ascending."""
    index_M: Tensor
    """The same, where the batch is."""
    context: RoutingContext

    def of(self, tensor: Tensor) -> Tensor:
        """Its rows of a tensor with B rows."""
        return tensor.index_select(0, self.index_M)


class Split:
    """The parts of a batch, by adapter name."""

    def __init__(self, rows: tuple[Row, ...], parts: Mapping[str, Part]) -> None:
        self.rows = rows
        self.parts = dict(parts)
        self.kept: dict[Any, Any] = {}
        """What forwards of this split keep for its decode steps."""

    @classmethod
    def of(cls, context: RoutingContext, device: torch.device) -> Split:
        """From `context.rows`; the parts begin as a prefill does."""
        assert context.rows is not None
        parts = {}
        places: dict[str, list[int]] = {}
        for index, row in enumerate(context.rows):
            for name in dict.fromkeys(names_of(row)):
                places.setdefault(name, []).append(index)
        lengths = [len(mine) for mine in places.values()]
        every = [i for mine in places.values() for i in mine]
        flat = torch.tensor(every, dtype=torch.long, device=device)
        for (name, mine), index_M in zip(places.items(), torch.split(flat, lengths), strict=True):
            part = context.part(index_M)
            part.whole = context
            part.trace, part.site_codes = context.trace, context.site_codes
            part.signals = context.signals
            parts[name] = Part(places=tuple(mine), index_M=index_M, context=part)
        return cls(context.rows, parts)

    def follow_strength(self, context: RoutingContext) -> None:
        """Strengths may change from one forward to the next."""
        for name, part in self.parts.items():
            strength: Strength = context.strength_of(name)
            part.context.strength = (
                part.of(strength)
                if isinstance(strength, Tensor) and strength.dim() > 0
                else strength
            )

    def take(self, picked: Sequence[int], whole: RoutingContext) -> Split:
        """The split of rows `picked`, which belongs to `whole`."""
        rows = tuple(self.rows[i] for i in picked)
        parts = {}
        for name, part in self.parts.items():
            mine = [j for j, row in enumerate(rows) if name in names_of(row)]
            if not mine:
                continue
            place = {old: new for new, old in enumerate(part.places)}
            device = part.index_M.device
            context = part.context.take(
                torch.tensor([place[picked[j]] for j in mine], device=device)
            )
            context.whole = whole
            index_M = torch.tensor(mine, device=device)
            parts[name] = Part(places=tuple(mine), index_M=index_M, context=context)
        return Split(rows, parts)


def check_rows(context: RoutingContext, batch: int) -> None:
    """Raise RoutingError where `rows` does not fit the batch or the rest of the context."""
    assert context.rows is not None
    if len(context.rows) != batch:
        raise RoutingError(f"rows names {len(context.rows)} adapters, the batch has {batch} rows.")
    if context.adapters is not None:
        raise RoutingError(
            "Give rows or adapters, not both: in a mixed batch each row has its own."
        )
    if context.code_map is not None:
        raise RoutingError("code_map is not for mixed batches: codes of a part are not all rows.")


def batch_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """B and T of a forward of the decoder."""
    tokens = kwargs.get("input_ids", args[0] if args else None)
    if tokens is None:
        tokens = kwargs["inputs_embeds"]
    return tokens.shape[0], tokens.shape[1]


def own_rows(
    part: Part, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a forward for the rows of one part; the KV cache stays whole."""

    def mine(value: Any) -> Any:
        rows = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch
        return part.of(value) if rows else value

    return tuple(mine(value) for value in args), {key: mine(v) for key, v in kwargs.items()}


def split_of(context: RoutingContext, batch: int, device: torch.device, *, decoding: bool) -> Split:
    """The split of this forward: a new one at a prefill, the prefill's at its decode steps."""
    check_rows(context, batch)
    split = context.split
    if split is None or not decoding or split.rows != context.rows:
        split = context.split = Split.of(context, device)
    else:
        split.follow_strength(context)
    return split
