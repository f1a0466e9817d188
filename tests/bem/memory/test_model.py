"""The model as a whole: streaming, absorbing, causality, sizes, and a naive position-wise pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bem.errors import InvalidInputError
from bem.memory import MemoryLM, MemoryLMConfig
from bem.memory.checkpoint import load_model, save_model
from bem.memory.delta import naive as delta_naive
from bem.memory.interfaces import bytes_per_stream

CHUNK = 8
STORES = {
    "delta": {"kind": "delta", "key_width": 6, "value_width": 5, "write_cap": 4},
    "slots": {
        "kind": "slots",
        "key_width": 6,
        "value_width": 5,
        "slots": 7,
        "train_slots": 7,
        "keep": "gate",
    },
    "window": {"kind": "slots", "key_width": 6, "value_width": 5, "slots": 7, "keep": "recent"},
}


def make(store: str, **fields: object) -> MemoryLM:
    config = MemoryLMConfig.model_validate(
        {"vocab": 20, "width": 16, "chunk": CHUNK, "store": STORES[store]} | fields
    )
    model = MemoryLM(config, generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # away from symmetric starting values
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(20, (batch, length), generator=torch.Generator().manual_seed(2))


def stream(model: MemoryLM, ids: torch.Tensor, pieces: list[int]) -> tuple[torch.Tensor, object]:
    state, logits = model.initial(len(ids)), []
    for piece in ids.split([p * CHUNK for p in pieces], dim=1):
        part, state = model(piece, state)
        logits.append(part)
    return torch.cat(logits, dim=1), state


@pytest.mark.parametrize("store", STORES)
def test_streaming_in_pieces_equals_one_pass(store: str) -> None:
    model, ids = make(store), tokens(2, 10 * CHUNK)
    with torch.inference_mode():
        whole, _ = stream(model, ids, [10])
        for pieces in ([1] * 10, [3, 1, 6]):
            torch.testing.assert_close(stream(model, ids, pieces)[0], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("store", STORES)
def test_absorbing_is_exact(store: str) -> None:
    model, ids = make(store), tokens(2, 10 * CHUNK)
    with torch.inference_mode():
        whole, state = stream(model, ids, [10])
        absorbed = model.absorb(ids, model.initial(2))
        for name, tensor in state.store.items():
            torch.testing.assert_close(absorbed.store[name], tensor, rtol=1e-5, atol=1e-6)
        tail, gates = model.tail(ids, 2, piece_chunks=3)
    torch.testing.assert_close(tail, whole[:, -2 * CHUNK :], rtol=1e-4, atol=1e-5)
    assert gates.shape == ids.shape


@pytest.mark.parametrize("store", STORES)
def test_the_tail_of_a_short_stream_is_exact(store: str) -> None:
    model, ids = make(store), tokens(2, 2 * CHUNK)
    with torch.inference_mode():
        torch.testing.assert_close(model.tail(ids, 1)[0], stream(model, ids, [2])[0][:, -CHUNK:])


@pytest.mark.parametrize("store", STORES)
def test_gradients_through_the_tail_equal_those_of_the_whole_pass(store: str) -> None:
    model, ids = make(store), tokens(2, 6 * CHUNK)
    model.tail(ids, 1)[0].square().mean().backward()
    by_tail = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    stream(model, ids, [6])[0][:, -CHUNK:].square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(by_tail[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("store", STORES)
def test_no_position_sees_what_comes_after_it(store: str) -> None:
    model, ids = make(store), tokens(1, 6 * CHUNK)
    changed = ids.clone()
    at = 3 * CHUNK + 2
    changed[:, at:] = (changed[:, at:] + 7) % 20
    with torch.inference_mode():
        before, after = stream(model, ids, [6])[0], stream(model, changed, [6])[0]
    torch.testing.assert_close(before[:, :at], after[:, :at], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before[:, at:], after[:, at:])


def test_the_state_of_a_stream_never_grows() -> None:
    for store in STORES:
        model, sizes = make(store), set()
        state = model.initial(1)
        with torch.inference_mode():
            for _ in range(6):
                _, state = model(tokens(1, 2 * CHUNK), state)
                windows = sum(k.numel() + v.numel() for k, v in state.windows)
                sizes.add((bytes_per_stream(state.store), windows))
        assert len(sizes) == 1, store


@pytest.mark.parametrize("coupling", [0, 3])
def test_the_memory_layer_equals_a_naive_pass(coupling: int) -> None:
    """Taps, projections, gate, coupling, write and read, one position after the other."""
    model = make("delta", gate={"coupling": coupling, "threshold": 0.3})
    ids = tokens(1, 4 * CHUNK)
    with torch.no_grad():
        expected = naive_memory(model, ids[0])
        got, _, _ = model._memory(ids, model.initial(1), model._tables())
    torch.testing.assert_close(got.flatten(1, 2)[0], expected, rtol=1e-4, atol=1e-5)


def naive_memory(model: MemoryLM, ids: torch.Tensor) -> torch.Tensor:
    embedded = [model.embedding.weight[0]] * 2 + [model.embedding.weight[i] for i in ids]
    gate = model.config.gate
    matrix = [[0.0] * 6 for _ in range(5)]
    carried = torch.zeros(gate.coupling)
    outputs = []

    def mix(taps: torch.Tensor, t: int) -> torch.Tensor:
        return sum(taps[i] * embedded[t + i] for i in range(3))

    for start in range(0, len(ids), CHUNK):
        keys, values, logits = [], [], []
        for t in range(start, start + CHUNK):
            query = model.to_key(mix(model.query_taps_3D, t))
            read = delta_naive.read(matrix, (query / query.norm()).tolist())
            outputs.append(embedded[t + 2] + model.from_memory(torch.tensor(read)))
            key = model.to_key(mix(model.key_taps_3D, t))
            keys.append((key / key.norm()).tolist())
            values.append(model.to_value(mix(model.value_taps_3D, t)).tolist())
            logit = mix(model.gate_3D, t).sum() + model.gate_bias
            if coupling_used := model.coupling:
                logit = logit + coupling_used.leave_G @ carried
            logits.append(float(logit))
        matrix = delta_naive.write(
            matrix, keys, values, logits, threshold=gate.threshold, write_cap=4
        )
        if model.coupling:
            chunk = torch.stack(embedded[start + 2 : start + CHUNK + 2])
            enter, keep = model.to_coupling(chunk).mean(dim=0).chunk(2)
            a = torch.sigmoid(keep)
            carried = a * carried + (1 - a) * torch.tanh(enter)
    return torch.stack(outputs)


@pytest.mark.parametrize("store", STORES)
def test_flops_equal_those_that_torch_counts(store: str) -> None:
    model, ids = make(store).requires_grad_(False), tokens(1, 4 * CHUNK)
    with torch.no_grad():
        with FlopCounterMode(display=False) as tables:
            model._tables()
        with FlopCounterMode(display=False) as whole:
            model(ids, model.initial(1))
    counted = whole.get_total_flops() - tables.get_total_flops()
    solve = 0
    if store == "delta":  # torch's counter knows no triangular solve
        writes = STORES["delta"]["write_cap"]
        solve = 4 * writes * (writes - 1) * 5
    coupling = 4 * 2 * 8 if store != "window" else 0
    assert model.forward_flops(4 * CHUNK) == pytest.approx(counted + solve, abs=coupling)


def test_lengths_must_be_whole_chunks() -> None:
    model = make("delta")
    for length in (0, CHUNK + 1):
        with pytest.raises(InvalidInputError, match="multiple of chunk"):
            model(tokens(1, length), model.initial(1))


@pytest.mark.parametrize("store", STORES)
def test_a_saved_model_comes_back(store: str, tmp_path) -> None:
    model, ids = make(store), tokens(2, 3 * CHUNK)
    save_model(model, tmp_path / "m", extra={"seed": 3})
    again = load_model(tmp_path / "m")
    with torch.inference_mode():
        assert torch.equal(again(ids, again.initial(2))[0], model(ids, model.initial(2))[0])
    weights = tmp_path / "m" / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidInputError, match="does not verify"):
        load_model(tmp_path / "m")


def test_models_are_drawn_from_their_generator_alone() -> None:
    config = MemoryLMConfig.model_validate(
        {"vocab": 20, "width": 16, "chunk": 8, "store": STORES["delta"]}
    )
    torch.manual_seed(0)
    one = MemoryLM(config, generator=torch.Generator().manual_seed(5)).state_dict()
    torch.manual_seed(1)
    two = MemoryLM(config, generator=torch.Generator().manual_seed(5)).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
