"""Reservoir replay: uniform inclusion, exact snapshots."""

from __future__ import annotations

import pytest
import torch

from bem.errors import InvalidInputError
from bem.online.replay import Reservoir


def test_every_item_is_held_with_equal_probability() -> None:
    generator = torch.Generator().manual_seed(3)
    counts = torch.zeros(20)
    repeats = 2000
    for _ in range(repeats):
        reservoir: Reservoir[int] = Reservoir(5)
        reservoir.extend(range(20), generator)
        counts[list(reservoir.items)] += 1
    share = counts / repeats
    # 5 of 20: standard error sqrt(.25 * .75 / 2000) = .0097; five of them is a safe bound.
    assert (share - 0.25).abs().max() < 0.05


def test_sample_is_distinct_and_bounded() -> None:
    generator = torch.Generator().manual_seed(0)
    reservoir: Reservoir[int] = Reservoir(10)
    reservoir.extend(range(4), generator)
    assert sorted(reservoir.sample(9, generator)) == [0, 1, 2, 3]
    assert len(set(reservoir.sample(3, generator))) == 3


def test_restore_forgets_what_came_later() -> None:
    generator = torch.Generator().manual_seed(0)
    reservoir: Reservoir[int] = Reservoir(4)
    reservoir.extend(range(6), generator)
    state = reservoir.state()
    reservoir.extend(range(100, 140), generator)
    assert any(item >= 100 for item in reservoir.items)
    reservoir.restore(state)
    assert (reservoir.items, reservoir.num_seen) == (state.items, 6)


def test_capacity_must_be_positive() -> None:
    with pytest.raises(InvalidInputError, match="capacity must be >= 1, got 0"):
        Reservoir(0)
