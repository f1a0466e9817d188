"""Stateful streams of a memory model: what was read long ago costs no more than what was read now.

A session carries a state of constant size (store, windows, coupling) and fewer tokens than one
chunk. The least recently used session gives way. A stream is read in whole chunks; the rest waits
until its chunk is full and is read again, cheaply, when an answer is asked for. Knows no HTTP.

Legend: T tokens, C chunk, L vocabulary.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bem.engine import Sampling, TokenInfo
from bem.engine.sampling import RowSampler, pick
from bem.memory import MemoryLM
from bem.memory.model import StreamState

PIECE_CHUNKS = 32
"""Chunks read before others may go on."""


@dataclass(kw_only=True, slots=True)
class Stream:
    """One stream of one model."""

    model: str
    """Id of the model whose state it is."""
    state: StreamState
    rest: list[int] = field(default_factory=list)
    """Tokens of the chunk that is not full yet."""
    length: int = 0
    """Tokens so far."""
    busy: bool = False
    used_s: float = 0.0

    @property
    def num_bytes(self) -> int:
        """What the state takes."""
        tensors = [*self.state.store.values(), self.state.history_B2]
        tensors += [] if self.state.coupling is None else [self.state.coupling]
        tensors += [t for pair in self.state.windows or () for t in pair]
        return sum(t.numel() * t.element_size() for t in tensors)


class SessionStore:
    """Streams by key; on the event loop's thread only."""

    def __init__(
        self, *, max_sessions: int, idle_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max = max_sessions
        self._idle_s = idle_s
        self._clock = clock
        self._streams: OrderedDict[str, Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def num_bytes(self) -> int:
        """Of all states."""
        return sum(stream.num_bytes for stream in self._streams.values())

    def get(self, key: str) -> Stream | None:
        """The stream of a session, if it is there."""
        stream = self._streams.get(key)
        if stream is not None and self._clock() - stream.used_s > self._idle_s and not stream.busy:
            del self._streams[key]
            return None
        return stream

    def put(self, key: str, stream: Stream) -> None:
        """Keep a stream; the least recently used give way to it."""
        stream.used_s = self._clock()
        self._streams[key] = stream
        self._streams.move_to_end(key)
        idle = [k for k, s in self._streams.items() if not s.busy and k != key]
        while len(self._streams) > self._max and idle:
            del self._streams[idle.pop(0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamAnswer:
    """What a stream went on with."""

    tokens: tuple[int, ...]
    infos: tuple[TokenInfo, ...]
    stream: Stream


def fresh(model: MemoryLM, name: str) -> Stream:
    """A stream before its first token."""
    return Stream(model=name, state=model.initial(1))


def go_on(
    model: MemoryLM,
    stream: Stream,
    tokens: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    logprobs: int | None,
) -> Generator[None, None, StreamAnswer]:
    """Read tokens, then write `max_tokens`; yields between pieces. `stream` stays as it was."""
    chunk = model.config.chunk
    state, rest = stream.state, [*stream.rest, *tokens]
    last_L: Tensor | None = None
    whole = len(rest) // chunk * chunk
    # With windows to fill, all but the last chunks need no window: they are absorbed.
    warm = (model.warm_chunks + 1) * chunk
    absorbed = max(0, whole - warm)
    for start in range(0, absorbed, PIECE_CHUNKS * chunk):
        part = rest[start : min(absorbed, start + PIECE_CHUNKS * chunk)]
        state = model.absorb(torch.tensor([part]), state)
        yield
    for start in range(absorbed, whole, PIECE_CHUNKS * chunk):
        part = rest[start : min(whole, start + PIECE_CHUNKS * chunk)]
        logits_1TL, state = model(torch.tensor([part]), state)
        last_L = logits_1TL[0, -1]
        yield
    rest = rest[whole:]
    if rest:
        last_L = None
    sampler = RowSampler(sampling, torch.device("cpu"))
    made: list[int] = []
    infos: list[TokenInfo] = []
    for _ in range(max_tokens):
        if last_L is None:
            last_L = _peek(model, rest, state)
        token = int(pick(last_L[None], [sampler])[0])
        if logprobs is not None:
            logprob_L = last_L.log_softmax(-1)
            best = logprob_L.topk(min(logprobs, len(logprob_L)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            infos.append(TokenInfo(token=token, logprob=float(logprob_L[token]), top=tuple(pairs)))
        made.append(token)
        rest.append(token)
        last_L = None
        if len(rest) == chunk:
            logits_1TL, state = model(torch.tensor([rest]), state)
            last_L, rest = logits_1TL[0, -1], []
        if len(made) % 8 == 0:
            yield
    after = Stream(
        model=stream.model,
        state=state,
        rest=rest,
        length=stream.length + len(tokens) + len(made),
    )
    return StreamAnswer(tokens=tuple(made), infos=tuple(infos), stream=after)


def _peek(model: MemoryLM, rest: Sequence[int], state: StreamState) -> Tensor:
    """Logits (L,) after a chunk that is not full: what fills it up comes later and is not seen."""
    filled = [*rest, *[0] * (model.config.chunk - len(rest))]
    logits_1TL: Tensor = model(torch.tensor([filled]), state)[0]
    return logits_1TL[0, len(rest) - 1]
