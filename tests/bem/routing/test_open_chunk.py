"""Legend: B rows, D hidden size, N codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bem.routing.chunks import ChunkController
from bem.routing.open_chunk import MOST_ASIDE, OpenChunk

SIZE = 5


def controller(size: int = SIZE) -> ChunkController:
    return ChunkController(
        hidden_size=4,
        width=3,
        code_size=2,
        chunk_size=size,
        decay=0.5,
        head_spread=6.0,
        generator=torch.Generator().manual_seed(0),
    )


def tokens(count: int) -> tuple[Tensor, Tensor]:
    """Of two rows: features, and which are real."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, count, 4, generator=draw), torch.rand(2, count, generator=draw) < 0.8


def stepped(chunks: ChunkController, h_BTD: Tensor, valid_BT: Tensor) -> OpenChunk:
    """After a prefill of two tokens and a step for each of the others."""
    _, _, past = chunks(h_BTD[:, :2], valid_BT[:, :2], None)
    for at in range(2, h_BTD.shape[1]):
        _, _, past = chunks(h_BTD[:, at : at + 1], valid_BT[:, at : at + 1], past)
    assert isinstance(past, OpenChunk)
    return past


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, SIZE, 3 * MOST_ASIDE])
def test_steps_leave_what_one_forward_leaves(size: int) -> None:
    """Also of more tokens than are ever put aside, and nobody looks at the state in between."""
    chunks, (h_BTD, valid_BT) = controller(size), tokens(2 * MOST_ASIDE + 7)
    made = stepped(chunks, h_BTD, valid_BT)
    _, _, wanted = chunks(h_BTD, valid_BT, None)
    assert sorted(made) == sorted(wanted) == ["code", "count", "sum"]
    assert len(made) == 3
    for key, tensor in wanted.items():
        torch.testing.assert_close(made[key], tensor, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_who_gave_a_token_may_write_over_it() -> None:
    chunks, (h_BTD, valid_BT) = controller(), tokens(6)
    valid_BT[:] = True
    wanted = stepped(chunks, h_BTD[:, :4], valid_BT[:, :4])["sum"]
    given_BTD, given_BT = h_BTD.clone(), valid_BT.clone()
    made = stepped(chunks, given_BTD[:, :4], given_BT[:, :4])
    given_BTD.fill_(9.0)
    given_BT.fill_(False)
    assert torch.equal(made["sum"], wanted)


@torch.no_grad()
def test_two_ways_on_from_one_state_do_not_meet() -> None:
    chunks, (h_BTD, valid_BT) = controller(), tokens(9)
    past = stepped(chunks, h_BTD[:, :4], valid_BT[:, :4])
    ends = []
    for order in ((4, 5, 6), (7, 8, 4), (4, 5, 6)):
        state = past
        for at in order:
            _, _, state = chunks(h_BTD[:, at : at + 1], valid_BT[:, at : at + 1], state)
            state["sum"]
        ends.append(state)
    assert torch.equal(ends[0]["sum"], ends[2]["sum"])
    assert not torch.equal(ends[0]["sum"], ends[1]["sum"])
    again = stepped(chunks, h_BTD[:, :4], valid_BT[:, :4])
    assert torch.equal(past["sum"], again["sum"])
