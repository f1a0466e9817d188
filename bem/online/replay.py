"""Reservoir replay: a uniform sample of everything seen so far, in fixed memory.

Algorithm R (Vitter 1985): item number n > capacity replaces a random slot with probability
capacity / n, so at every moment each item seen is held with the same probability. It does not know
what an item is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from bem.errors import InvalidInputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReservoirState(Generic[T]):
    """What `restore` needs: the items held and how many were seen."""

    items: tuple[T, ...]
    num_seen: int


class Reservoir(Generic[T]):
    """At most `capacity` items of a stream, each seen item held with equal probability."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise InvalidInputError(f"Reservoir capacity must be >= 1, got {capacity}.")
        self.capacity = capacity
        self.num_seen = 0
        self._items: list[T] = []

    def __len__(self) -> int:
        return len(self._items)

    @property
    def items(self) -> tuple[T, ...]:
        """What is held, in slot order."""
        return tuple(self._items)

    def add(self, item: T, generator: torch.Generator) -> None:
        """Offer one item."""
        self.num_seen += 1
        if len(self._items) < self.capacity:
            self._items.append(item)
            return
        slot = int(torch.randint(self.num_seen, (1,), generator=generator))
        if slot < self.capacity:
            self._items[slot] = item

    def extend(self, items: Iterable[T], generator: torch.Generator) -> None:
        """Offer items in order."""
        for item in items:
            self.add(item, generator)

    def sample(self, count: int, generator: torch.Generator) -> list[T]:
        """`count` distinct held items (all of them where fewer are held), uniformly."""
        order = torch.randperm(len(self._items), generator=generator)[:count]
        return [self._items[int(slot)] for slot in order]

    def state(self) -> ReservoirState[T]:
        """A snapshot; later additions do not change it."""
        return ReservoirState(items=tuple(self._items), num_seen=self.num_seen)

    def restore(self, state: ReservoirState[T]) -> None:
        """Back to a snapshot: whatever came later is forgotten."""
        self._items = list(state.items)
        self.num_seen = state.num_seen
