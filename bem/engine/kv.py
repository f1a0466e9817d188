"""Keys and values of rows of different lengths: each row has its place, new rows take free ones.

Position p of a row stands in column p of its place, so rows need no common length; a decode step
writes each row's new key at that row's own end and reads up to the longest. It knows neither tokens
nor adapters.

Legend: N places, B rows, H heads, C columns, K head size, T positions, Z = B * H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_FIRST_COLUMNS = 128


class _Step(DynamicLayer):  # type: ignore[misc]
    """One layer during one decode step of the first B places; `place_Z`: where, in rows of size
    K, each row's new key of each head stands."""

    def __init__(self, keys_BHCK: Tensor, values_BHCK: Tensor, place_Z: Tensor, end: int) -> None:
        super().__init__()
        self.keys, self.values = keys_BHCK, values_BHCK
        self.dtype, self.device = keys_BHCK.dtype, keys_BHCK.device
        self.is_initialized = True
        self._place_Z = place_Z
        self._end = end

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        for kept_BHCK, new_BH1K in ((self.keys, key_states), (self.values, value_states)):
            size = kept_BHCK.shape[-1]
            kept_BHCK.view(-1, size).index_copy_(0, self._place_Z, new_BH1K.reshape(-1, size))
        return self.keys[:, :, : self._end], self.values[:, :, : self._end]

    def get_seq_length(self) -> int:
        return self._end - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._end, 0


class Places:
    """`rows` places of at most `columns` positions. Memory grows with what is used."""

    def __init__(self, *, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._layers[0][0].dtype

    @property
    def num_columns(self) -> int:
        """Positions that a place has room for now."""
        return self._layers[0][0].shape[2]

    @property
    def num_bytes(self) -> int:
        """What is allocated now."""
        return sum(t.numel() * t.element_size() for pair in self._layers for t in pair)

    def put(self, first: int, keys_values: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write the first T positions of the places from `first` on; each tensor (B, H, T, K)."""
        rows, _, length, _ = keys_values[0][0].shape
        if not self._layers:
            self._layers = [self._empty(pair) for pair in keys_values]
        self.reserve(length)
        for kept, given in zip(self._layers, keys_values, strict=True):
            for into_NHCK, from_BHTK in zip(kept, given, strict=True):
                into_NHCK[first : first + rows, :, :length] = from_BHTK

    def move(self, source: int, target: int, length: int) -> None:
        """The row in place `source` stands in `target` from now on."""
        for pair in self._layers:
            for both_NHCK in pair:
                both_NHCK[target, :, :length] = both_NHCK[source, :, :length]

    def reserve(self, length: int) -> None:
        """Make room for rows of `length` positions."""
        have = self.num_columns
        if length <= have:
            return
        assert length <= self.columns, "the engine admits no row that outgrows its place"
        wide = min(self.columns, max(length, 2 * have))
        self._layers = [(_wider(keys, wide), _wider(values, wide)) for keys, values in self._layers]

    def step(self, length_B1: Tensor, end: int) -> Any:
        """The cache of one decode step of the first B places, whose longest row will be `end`."""
        rows = len(length_B1)
        layers = []
        places: dict[tuple[int, int], Tensor] = {}
        for keys, values in self._layers:
            heads, columns = keys.shape[1:3]
            if (heads, columns) not in places:
                first_Z = torch.arange(0, rows * heads * columns, columns, device=length_B1.device)
                places[heads, columns] = (first_Z.view(rows, heads) + length_B1).view(-1)
            layers.append(_Step(keys[:rows], values[:rows], places[heads, columns], end))
        return Cache(layers=layers)

    def wipe(self, place: int) -> None:
        """Zeros: what is not finite there would reach the next row through weights of 0."""
        for pair in self._layers:
            for both_NHCK in pair:
                both_NHCK[place] = 0.0

    def clear(self) -> None:
        """Give the memory back; no row may stand here."""
        self._layers = []

    def _empty(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        columns = min(self.columns, _FIRST_COLUMNS)
        made = []
        for like_BHTK in pair:
            _, heads, _, size = like_BHTK.shape
            made.append(like_BHTK.new_zeros(self.rows, heads, columns, size))
        return made[0], made[1]


def _wider(old_NHCK: Tensor, columns: int) -> Tensor:
    rows, heads, have, size = old_NHCK.shape
    new_NHCK = old_NHCK.new_zeros(rows, heads, columns, size)
    new_NHCK[:, :, :have] = old_NHCK
    return new_NHCK
