import pytest
import torch
from torch.nn import functional

from bem.memory.delta import DeltaConfig, DeltaStore, naive
from bem.memory.interfaces import bytes_per_stream, take

THRESHOLD = 0.3


def entries(batch: int, chunks: int, chunk: int, key: int, value: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    k = functional.normalize(torch.randn(batch, chunks, chunk, key, generator=generator), dim=-1)
    v = torch.randn(batch, chunks, chunk, value, generator=generator)
    logit = 2.0 * torch.randn(batch, chunks, chunk, generator=generator)
    return k, v, logit


def write_chunk(store, state, k, v, logit):
    where = store.candidates(logit.unsqueeze(1))[:, 0]
    return store.write(state, take(k, where), take(v, where), logit.gather(1, where))


@pytest.mark.parametrize("cap", [3, 16])
def test_chunked_writes_equal_the_naive_recurrence(cap: int) -> None:
    store = DeltaStore(DeltaConfig(key_width=6, value_width=4, write_cap=cap), threshold=THRESHOLD)
    k, v, logit = entries(2, 3, 16, 6, 4, seed=0)
    state = store.initial(2, device=torch.device("cpu"))
    slow = [[[0.0] * 6 for _ in range(4)] for _ in range(2)]
    for n in range(3):
        state = write_chunk(store, state, k[:, n], v[:, n], logit[:, n])
        slow = [
            naive.write(
                matrix,
                k[b, n].tolist(),
                v[b, n].tolist(),
                logit[b, n].tolist(),
                threshold=THRESHOLD,
                write_cap=cap,
            )
            for b, matrix in enumerate(slow)
        ]
    torch.testing.assert_close(state["matrix"], torch.tensor(slow), rtol=1e-5, atol=1e-5)
    q = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor(
        [[naive.read(slow[b], q[b, t].tolist()) for t in range(5)] for b in (0, 1)]
    )
    torch.testing.assert_close(store.read(state, q), expected, rtol=1e-5, atol=1e-5)


def test_a_closed_gate_keeps_the_state_to_the_bit() -> None:
    store = DeltaStore(DeltaConfig(key_width=6, value_width=4, write_cap=8), threshold=THRESHOLD)
    k, v, logit = entries(2, 2, 8, 6, 4, seed=2)
    state = write_chunk(
        store, store.initial(2, device=torch.device("cpu")), k[:, 0], v[:, 0], logit[:, 0]
    )
    closed = torch.full_like(logit[:, 1], -0.9)  # sigmoid is .289, under the threshold
    assert bool(store.idle(closed.unsqueeze(1)).all())
    after = write_chunk(store, state, k[:, 1], v[:, 1], closed)
    assert torch.equal(after["matrix"], state["matrix"])


def test_one_open_gate_in_any_stream_makes_a_chunk_busy() -> None:
    store = DeltaStore(DeltaConfig(), threshold=THRESHOLD)
    logit = torch.full((3, 4, 64), -5.0)
    logit[2, 1, 7] = 0.0
    assert store.idle(logit).tolist() == [True, False, True, True]


def test_state_size_is_that_of_the_matrix() -> None:
    store = DeltaStore(DeltaConfig(key_width=64, value_width=32), threshold=THRESHOLD)
    assert bytes_per_stream(store.initial(5, device=torch.device("cpu"))) == 4 * 64 * 32


def test_a_full_gate_stores_orthogonal_facts_exactly_and_overwrites() -> None:
    store = DeltaStore(DeltaConfig(key_width=4, value_width=3, write_cap=5), threshold=THRESHOLD)
    k = torch.eye(4)[[0, 1, 2, 3, 1]].unsqueeze(0)
    v = torch.arange(15.0).view(1, 5, 3)
    open_gate = torch.full((1, 5), 50.0)
    state = store.write(store.initial(1, device=torch.device("cpu")), k, v, open_gate)
    expected = v[:, [0, 4, 2, 3]]  # key 1 was written twice: the later value stays
    torch.testing.assert_close(store.read(state, torch.eye(4).unsqueeze(0)), expected)


def test_gradients_by_finite_differences() -> None:
    store = DeltaStore(DeltaConfig(key_width=3, value_width=2, write_cap=4), threshold=THRESHOLD)
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    k = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(1, 4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    logit = torch.tensor([[0.5, -3.0, 1.0, 0.2]], dtype=torch.float64, requires_grad=True)

    def run(matrix, k, v, logit):
        return store.write({"matrix": matrix}, functional.normalize(k, dim=-1), v, logit)["matrix"]

    assert torch.autograd.gradcheck(run, (matrix, k, v, logit))
