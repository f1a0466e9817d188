"""Rows of a mixed batch that come and go: what each carries along, and the context of those here.

After a prefill `leave` takes the rows apart; before the next decode step `join` puts any rows
together, wherever they come from. Codes, strengths and causal state go with their row. It knows
neither KV caches nor what is generated.

Legend: B rows, M rows of one adapter, S sites, R code size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bem.context import RoutingContext, Row, Stream, Strength
from bem.mixed.rows import BASE_ROW, Part, Split


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowState:
    """One row, between two forwards."""

    strength: Mapping[str, float]
    """Of each adapter that acts on it, by name; one of strength 0 does not act."""
    codes: Mapping[str, Tensor] = field(default_factory=dict)
    """Sequence codes (1, S, R) read off its prompt."""
    streams: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """State of causal codes, each tensor with one row."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that act."""
        return tuple(name for name, strength in self.strength.items() if strength != 0)

    @property
    def row(self) -> Row:
        """The same as `RoutingContext.rows` has it."""
        names = self.names
        return BASE_ROW if not names else names[0] if len(names) == 1 else names

    def with_adapter(self, name: str, strength: float) -> RowState:
        """The same row with one more adapter."""
        return replace(self, strength={**self.strength, name: strength})


def strengths(rows: Sequence[RowState], device: torch.device) -> dict[str, Strength]:
    """By adapter: a number where its rows agree, (B,) where they do not."""
    given: dict[str, dict[int, float]] = {}
    for index, row in enumerate(rows):
        for name in row.names:
            given.setdefault(name, {})[index] = row.strength[name]
    made: dict[str, Strength] = {}
    for name, by_row in given.items():
        values = set(by_row.values())
        made[name] = (
            values.pop()
            if len(values) == 1
            else torch.tensor([by_row.get(i, 0.0) for i in range(len(rows))], device=device)
        )
    return made


def join(rows: Sequence[RowState], *, positions: int, device: torch.device) -> RoutingContext:
    """The context of a decode step of these rows.

    Args:
        positions: what their common KV cache says that it holds.
    """
    whole = RoutingContext(
        rows=tuple(row.row for row in rows),
        strength=strengths(rows, device),
        unpadded=True,
    )
    places: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        for name in row.names:
            places.setdefault(name, []).append(index)
    parts = {}
    for name, mine in places.items():
        own = [rows[i] for i in mine]
        codes = [row.codes[name] for row in own if name in row.codes]
        streams = [row.streams[name] for row in own if name in row.streams]
        context = RoutingContext(
            cache={name: torch.cat(codes)} if codes else {},
            streams={name: _stream(streams, positions)} if streams else {},
            unpadded=True,
            whole=whole,
        )
        index_M = torch.tensor(mine, device=device)
        parts[name] = Part(places=tuple(mine), index_M=index_M, context=context)
    assert whole.rows is not None
    whole.split = Split(whole.rows, parts)
    return whole


def leave(context: RoutingContext, rows: Sequence[RowState]) -> list[RowState]:
    """The rows after a forward under `context`, in their order: each with what it carries now."""
    assert context.split is not None
    codes: list[dict[str, Tensor]] = [dict(row.codes) for row in rows]
    streams: list[dict[str, Mapping[str, Tensor]]] = [dict(row.streams) for row in rows]
    for name, part in context.split.parts.items():
        read = part.context.cache.get(name)
        stream = part.context.streams.get(name)
        for at, index in enumerate(part.places):
            if read is not None:
                codes[index][name] = read[at : at + 1]
            if stream is not None:
                streams[index][name] = {k: t[at : at + 1] for k, t in stream.tensors.items()}
    return [
        replace(row, codes=code, streams=stream)
        for row, code, stream in zip(rows, codes, streams, strict=True)
    ]


def _stream(tensors: Sequence[Mapping[str, Tensor]], positions: int) -> Stream:
    joined = {key: torch.cat([t[key] for t in tensors]) for key in tensors[0]}
    return Stream(positions=positions, tensors=joined)
