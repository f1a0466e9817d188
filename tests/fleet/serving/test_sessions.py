"""A stream read in any parts equals the stream read at once, in bounded memory."""

from __future__ import annotations

import pytest
import torch

from bem.engine import Sampling
from bem.memory import MemoryLM, MemoryLMConfig
from bem.memory.delta.config import DeltaConfig
from fleet.serving.sessions import SessionStore, Stream, StreamAnswer, fresh, go_on

CHUNK = 8


@pytest.fixture(scope="module")
def model() -> MemoryLM:
    config = MemoryLMConfig(
        vocab=40, width=16, chunk=CHUNK, store=DeltaConfig(key_width=8, value_width=8, write_cap=4)
    )
    made = MemoryLM(config, generator=torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        made.gate_3D.normal_(generator=torch.Generator().manual_seed(2))
    return made


def read(model: MemoryLM, stream: Stream, tokens: list[int], count: int) -> StreamAnswer:
    work = go_on(model, stream, tokens, max_tokens=count, sampling=Sampling(), logprobs=5)
    with torch.inference_mode():
        while True:
            try:
                next(work)
            except StopIteration as end:
                answer: StreamAnswer = end.value
                return answer


def logits(model: MemoryLM, ids: list[int]) -> torch.Tensor:
    """By one forward over everything, filled up to whole chunks."""
    filled = ids + [0] * (-len(ids) % CHUNK)
    with torch.inference_mode():
        out = model(torch.tensor([filled]), model.initial(1))[0]
    return out[0, len(ids) - 1].log_softmax(-1)


@pytest.mark.parametrize("parts", [[5], [8], [3, 5, 1], [16, 40, 2, 30], [7, 1, 64, 9], [200, 3]])
def test_parts_equal_the_whole(model: MemoryLM, parts: list[int]) -> None:
    draw = torch.Generator().manual_seed(sum(parts))
    stream, seen = fresh(model, "m"), list[int]()
    for size in parts:
        tokens = torch.randint(0, 40, (size,), generator=draw).tolist()
        answer = read(model, stream, tokens, 3)
        seen += tokens
        for token, info in zip(answer.tokens, answer.infos, strict=True):
            expected = logits(model, seen)
            assert token == int(expected.argmax())
            assert info.logprob == pytest.approx(float(expected[token]), abs=1e-4)
            seen.append(token)
        stream = answer.stream
        assert stream.length == len(seen)
        assert len(stream.rest) < CHUNK
    assert stream.num_bytes <= 2**14


def test_the_store_forgets_the_least_recently_used(model: MemoryLM) -> None:
    now = [0.0]
    store = SessionStore(max_sessions=2, idle_s=10, clock=lambda: now[0])
    for key in ("a", "b"):
        store.put(key, fresh(model, "m"))
    one = store.get("a")
    assert one is not None
    store.put("a", one)
    store.put("c", fresh(model, "m"))
    assert (store.get("b"), len(store)) == (None, 2)
    busy = store.get("a")
    assert busy is not None
    busy.busy = True
    store.put("d", fresh(model, "m"))
    store.put("e", fresh(model, "m"))
    assert store.get("a") is busy
    now[0] = 11.0
    assert store.get("e") is None
    assert store.num_bytes > 0
