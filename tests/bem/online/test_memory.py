"""The correction memory: radius, recency, majority, snapshots."""

from __future__ import annotations

import pytest
import torch

from bem.errors import InvalidInputError
from bem.online.memory import CodeMemory


def _memory(labels: list[int], places: list[float], votes: int = 3) -> CodeMemory:
    memory = CodeMemory(radius=1.0, votes=votes, capacity=100)
    for label, place in zip(labels, places, strict=True):
        memory.add(torch.tensor([place, 0.0]), label)
    return memory


def test_far_prompts_keep_their_own_code() -> None:
    memory = _memory([7], [0.0])
    assert memory.lookup(torch.tensor([[0.9, 0.0], [1.1, 0.0]])) == [7, None]
    assert CodeMemory(radius=1, votes=1, capacity=1).lookup(torch.zeros(2, 3)) == [None, None]


def test_the_most_recent_near_records_vote() -> None:
    origin = torch.zeros(1, 2)
    # Near and newest three: 2, 1, 2 (the far 9s do not vote, the old 1s are outvoted by recency).
    assert _memory([1, 1, 1, 2, 1, 9, 2, 9], [0, 0, 0, 0, 0, 5, 0, 5]).lookup(origin) == [2]
    # A tie goes to the newest label.
    assert _memory([1, 2], [0, 0]).lookup(origin) == [2]
    assert _memory([2, 1], [0, 0]).lookup(origin) == [1]


def test_capacity_forgets_the_oldest_and_restore_the_newest() -> None:
    memory = CodeMemory(radius=1.0, votes=5, capacity=2)
    for label in (1, 2, 3):
        memory.add(torch.zeros(2), label)
    assert len(memory) == 2
    state = memory.state()
    memory.add(torch.zeros(2), 4)
    memory.add(torch.zeros(2), 4)
    assert memory.lookup(torch.zeros(1, 2)) == [4]
    memory.restore(state)
    assert memory.lookup(torch.zeros(1, 2)) == [3]


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="radius > 0"):
        CodeMemory(radius=0.0, votes=1, capacity=1)
