"""A correction memory over codes: nearest remembered prompts say which code to use.

After GRACE (2211.11031), with codes as keys and values: a record is a prompt's own code (key) and
the label of the code that gave the wanted answer. A prompt asks the most recent records within a
radius of its own code and follows their majority; without one it keeps its own code (deferral). No
gradient, no parameter. It knows neither models nor what the labels stand for.

Legend: B rows, K numbers in a flattened code, M records.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryState:
    """What `restore` needs."""

    keys: tuple[Tensor, ...]
    labels: tuple[int, ...]


class CodeMemory:
    """Labelled codes, the newest last."""

    def __init__(self, *, radius: float, votes: int, capacity: int) -> None:
        if not radius > 0 or votes < 1 or capacity < 1:
            raise InvalidInputError(
                f"CodeMemory needs radius > 0, votes >= 1, capacity >= 1; got {radius}, {votes}, "
                f"{capacity}."
            )
        self.radius = radius
        self.votes = votes
        self.capacity = capacity
        self._keys: list[Tensor] = []
        self._labels: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key_K: Tensor, label: int) -> None:
        """Remember one record; the oldest is forgotten beyond the capacity."""
        self._keys.append(key_K.detach().clone())
        self._labels.append(label)
        if len(self._keys) > self.capacity:
            del self._keys[0], self._labels[0]

    def lookup(self, keys_BK: Tensor) -> list[int | None]:
        """The label of each row, None where no record lies within the radius.

        A tie goes to the label that was given last.
        """
        if not self._keys:
            return [None] * len(keys_BK)
        near_BM = torch.cdist(keys_BK, torch.stack(self._keys)) <= self.radius
        answers: list[int | None] = []
        for near_M in near_BM:
            newest = near_M.nonzero()[-self.votes :, 0].flip(0).tolist()
            tally = Counter(self._labels[at] for at in newest)
            # Counter keeps the order of first sight, newest first: max takes the newest of a tie.
            answers.append(max(tally, key=lambda label: tally[label]) if tally else None)
        return answers

    def state(self) -> MemoryState:
        """A snapshot."""
        return MemoryState(keys=tuple(self._keys), labels=tuple(self._labels))

    def restore(self, state: MemoryState) -> None:
        """Back to a snapshot."""
        self._keys, self._labels = list(state.keys), list(state.labels)
