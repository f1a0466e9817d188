import math
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from bem.memory.interfaces import bytes_per_stream, take
from bem.memory.slots import SlotsConfig, SlotStore, naive

THRESHOLD = 0.3
Keep = Literal["gate", "recent"]


def make(keep: Keep, slots: int = 5) -> SlotStore:
    config = SlotsConfig(
        key_width=6, value_width=4, slots=slots, train_slots=slots, keep=keep, sink=2
    )
    return SlotStore(config, threshold=THRESHOLD).eval()


def entries(batch: int, chunks: int, chunk: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    k = functional.normalize(torch.randn(batch, chunks, chunk, 6, generator=generator), dim=-1)
    v = torch.randn(batch, chunks, chunk, 4, generator=generator)
    logit = 2.0 * torch.randn(batch, chunks, chunk, generator=generator)
    return k, v, logit


def write_chunk(store, state, k, v, logit):
    where = store.candidates(logit.unsqueeze(1))[:, 0]
    return store.write(state, take(k, where), take(v, where), logit.gather(1, where))


@pytest.mark.parametrize("keep", ["gate", "recent"])
@pytest.mark.parametrize("chunk", [3, 16])
def test_chunked_writes_and_reads_equal_the_naive_ones(keep: Keep, chunk: int) -> None:
    store = make(keep)
    k, v, logit = entries(2, 4, chunk, seed=0)
    state = store.initial(2, device=torch.device("cpu"))
    slow: list[list[naive.Entry]] = [[], []]
    for n in range(4):
        state = write_chunk(store, state, k[:, n], v[:, n], logit[:, n])
        for b in (0, 1):
            for t in range(chunk):
                arrived = naive.Entry(
                    position=n * chunk + t,
                    key=k[b, n, t].tolist(),
                    value=v[b, n, t].tolist(),
                    logit=float(logit[b, n, t]),
                )
                if keep == "gate":
                    slow[b] = naive.keep_gated(slow[b], arrived, slots=5, threshold=THRESHOLD)
                else:
                    slow[b] = naive.keep_recent(slow[b], arrived, slots=5, sink=2)
    for b in (0, 1):
        filled = state["scores"][b] > -math.inf
        torch.testing.assert_close(
            state["keys"][b][filled], torch.tensor([entry.key for entry in slow[b]])
        )
        torch.testing.assert_close(
            state["values"][b][filled], torch.tensor([entry.value for entry in slow[b]])
        )
    with torch.no_grad():
        store.empty_logit.fill_(0.7)
    q = functional.normalize(
        torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    expected = torch.tensor(
        [
            [
                naive.read(
                    slow[b],
                    q[b, t].tolist(),
                    temperature=float(store.log_temperature.detach().exp()),
                    empty_logit=0.7,
                    gated=keep == "gate",
                )
                for t in range(3)
            ]
            for b in (0, 1)
        ]
    )
    torch.testing.assert_close(store.read(state, q), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", ["gate", "recent"])
def test_many_chunks_may_be_written_as_one(keep: Keep) -> None:
    store = make(keep)
    k, v, logit = entries(2, 4, 16, seed=4)
    by_chunk = together = store.initial(2, device=torch.device("cpu"))
    for n in range(4):
        by_chunk = write_chunk(store, by_chunk, k[:, n], v[:, n], logit[:, n])
    together = write_chunk(store, together, k.flatten(1, 2), v.flatten(1, 2), logit.flatten(1))
    for name, tensor in by_chunk.items():
        assert torch.equal(tensor, together[name]), name


def test_a_closed_gate_keeps_the_state_to_the_bit() -> None:
    store = make("gate")
    k, v, logit = entries(2, 2, 8, seed=5)
    state = write_chunk(
        store, store.initial(2, device=torch.device("cpu")), k[:, 0], v[:, 0], logit[:, 0]
    )
    closed = torch.full_like(logit[:, 1], -0.9)
    assert bool(store.idle(closed.unsqueeze(1)).all())
    after = write_chunk(store, state, k[:, 1], v[:, 1], closed)
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_an_empty_memory_reads_as_zero() -> None:
    store = make("gate")
    q = torch.ones(1, 2, 6)
    assert torch.equal(
        store.read(store.initial(1, device=torch.device("cpu")), q), torch.zeros(1, 2, 4)
    )


def test_state_size_and_the_room_for_training() -> None:
    config = SlotsConfig(key_width=32, value_width=32, slots=31, train_slots=64)
    store = SlotStore(config, threshold=THRESHOLD)
    cpu = torch.device("cpu")
    assert store.train().initial(1, device=cpu)["keys"].shape[1] == 64
    assert bytes_per_stream(store.eval().initial(3, device=cpu)) == 4 * 31 * (32 + 32 + 1)


@pytest.mark.parametrize("bad", [{"sink": 31}, {"train_slots": 30}, {"policy": "lru"}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SlotsConfig.model_validate(bad)
