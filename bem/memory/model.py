"""A small causal language model of constant memory: a store, then sliding-window blocks.

    x_t = embedding of the token;  a mix has three taps a channel over x_{t-2}, x_{t-1}, x_t
    k_t, q_t = unit(P mix(x)_t), v_t = W_v mix(x)_t, gate logit g_t = w mix(x)_t + b + u c_n
    h_t = x_t + W_o read(S_n, q_t);  S_{n+1} = write(S_n, chunk n)

t reads the memory as it stood at the start of its chunk; what is younger, the window holds. The
taps let a key and a value of neighbouring positions meet (H3's shift SSM, 2212.14052). Query and
key share the projection P.

The store depends on embeddings only, which buys two exact savings. Projections are made once for
the vocabulary and looked up by token (`_Tables`). And a stretch of which no logits are asked needs
no window block: `absorb`. Knows no task.

Legend: B streams, T positions (a multiple of C), N chunks of C positions, R candidates of a chunk,
D width, G coupling width, K key width, V value width, L vocabulary, I = 3L tap and token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bem.errors import InvalidInputError
from bem.memory.config import MemoryLMConfig
from bem.memory.delta import DeltaConfig, DeltaStore
from bem.memory.gate import Coupling
from bem.memory.interfaces import MemoryStore, StoreState, take
from bem.memory.slots import SlotStore
from bem.memory.window import WindowBlock, WindowCache

TAPS = 3
_KEEP_START = 2.0
"""Start of the coupling's keep logit: it remembers some eight chunks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """All that a stream carries from one chunk to the next."""

    store: StoreState
    coupling: Tensor | None
    """(B, G), or None where there is none."""
    history_B2: Tensor
    """The last two token ids, for the taps."""
    windows: tuple[WindowCache, ...] | None
    """One cache a block; None at the start, and after `absorb`, which runs no block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tables:
    """Projections of the whole vocabulary, one for each tap: rows are tap * L + token."""

    query_IK: Tensor
    key_IK: Tensor
    value_IV: Tensor
    gate_I1: Tensor
    coupling_LG: Tensor | None
    """Enter and keep features side by side, (L, 2G)."""


class MemoryLM(nn.Module):
    """Embedding, memory layer, window blocks, tied head."""

    def __init__(self, config: MemoryLMConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = nn.Embedding(config.vocab, width)
        self.store = _build_store(config)
        # Starting taps: a query is made of its own token, a key of the token before the value.
        self.query_taps_3D = _taps((0.0, 0.0, 1.0), width)
        self.key_taps_3D = _taps((0.0, 1.0, 0.0), width)
        self.value_taps_3D = _taps((0.0, 0.0, 1.0), width)
        self.to_key = nn.Linear(width, self.store.key_width, bias=False)
        self.to_value = nn.Linear(width, self.store.value_width, bias=False)
        self.from_memory = nn.Linear(self.store.value_width, width, bias=False)
        self.coupling: Coupling | None = None
        if self.store.gated:
            # Taps and weight of the gate in one: it has a single output.
            self.gate_3D = nn.Parameter(torch.zeros(TAPS, width))
            self.gate_bias = nn.Parameter(torch.tensor(config.gate.bias))
            if config.gate.coupling:
                self.to_coupling = nn.Linear(width, 2 * config.gate.coupling)
                self.coupling = Coupling(config.gate.coupling)
        self.blocks = nn.ModuleList(
            WindowBlock(width, config.heads, config.mlp_ratio, config.chunk)
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        _draw(self, generator)

    @property
    def warm_chunks(self) -> int:
        """Chunks before a position on which its logits can depend through the windows."""
        return self.config.blocks

    def gate_parameters(self) -> list[nn.Parameter]:
        """The parameters that decide what is written."""
        names = ("gate_3D", "gate_bias", "to_coupling", "coupling")
        return [p for name, p in self.named_parameters() if name.split(".")[0] in names]

    def initial(self, batch: int) -> StreamState:
        """The state before the first token."""
        device = self.embedding.weight.device
        coupling = None
        if self.coupling is not None:
            coupling = torch.zeros(batch, self.config.gate.coupling, device=device)
        return StreamState(
            store=self.store.initial(batch, device=device),
            coupling=coupling,
            history_B2=torch.zeros(batch, TAPS - 1, dtype=torch.long, device=device),
            windows=None,
        )

    def forward(self, ids_BT: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Logits (B, T, L) of whole chunks and the state after them."""
        tables = self._tables()
        h_BNCD, after, _ = self._memory(ids_BT, state, tables)
        caches: list[WindowCache] = []
        for index, block in enumerate(self._window_blocks()):
            h_BNCD, cache = block(h_BNCD, state.windows[index] if state.windows else None)
            caches.append(cache)
        return self._head(h_BNCD), _with_windows(after, tuple(caches))

    def absorb(self, ids_BT: Tensor, state: StreamState) -> StreamState:
        """The state after whole chunks of which no logits are wanted; windows are left cold."""
        return self._absorb(ids_BT, state, self._tables())[0]

    def tail(
        self, ids_BT: Tensor, tail_chunks: int, *, piece_chunks: int = 256
    ) -> tuple[Tensor, Tensor]:
        """Logits of the last chunks of fresh streams, and the gate logits of every position.

        Exact: what the tail cannot see through the windows is absorbed, `piece_chunks` at a time,
        and each window block runs on one chunk less than the block before it.

        Returns:
            (B, tail_chunks * C, L) and (B, T).
        """
        tables, chunk = self._tables(), self.config.chunk
        seen = (tail_chunks + self.warm_chunks) * chunk
        state = self.initial(ids_BT.shape[0])
        early_BT, late_BT = ids_BT[:, :-seen], ids_BT[:, -seen:]
        gates = []
        for piece_BT in _pieces(early_BT, piece_chunks * chunk):
            state, logit_BNC = self._absorb(piece_BT, state, tables)
            gates.append(logit_BNC.flatten(1))
        h_BNCD, _, logit_BNC = self._memory(late_BT, state, tables)
        gates.append(logit_BNC.flatten(1))
        complete = late_BT.shape[1] == seen
        for block in self._window_blocks():
            if complete:
                cache = block.prime(h_BNCD[:, 0])
                h_BNCD, _ = block(h_BNCD[:, 1:], cache)
            else:
                h_BNCD, _ = block(h_BNCD, None)
        return self._head(h_BNCD[:, -tail_chunks:]), torch.cat(gates, dim=1)

    def forward_flops(self, length: int) -> int:
        """FLOPs of `forward` on one stream of `length` tokens with the tables at hand.

        Products only, a multiply-add is two. The tables are functions of the weights alone and
        are made once for any number of tokens, so they are not in it.
        """
        config = self.config
        blocks = sum(block.forward_flops() for block in self._window_blocks())
        memory = self.store.read_flops() + 2 * self.from_memory.weight.numel()
        head = 2 * config.vocab * config.width
        chunks = length // config.chunk
        coupling = 2 * config.gate.coupling if self.coupling is not None else 0
        a_chunk = self.store.write_flops(config.chunk) + coupling
        return length * (blocks + memory + head) + chunks * a_chunk

    def _window_blocks(self) -> list[WindowBlock]:
        blocks = [block for block in self.blocks if isinstance(block, WindowBlock)]
        assert len(blocks) == self.config.blocks
        return blocks

    def _tables(self) -> _Tables:
        weight_LD = self.embedding.weight

        def project(taps_3D: Tensor, weight_XD: Tensor) -> Tensor:
            return ((taps_3D.unsqueeze(1) * weight_LD) @ weight_XD.mT).flatten(0, 1)

        gated = self.store.gated
        ones_1D = weight_LD.new_ones(1, self.config.width)
        return _Tables(
            query_IK=project(self.query_taps_3D, self.to_key.weight),
            key_IK=project(self.key_taps_3D, self.to_key.weight),
            value_IV=project(self.value_taps_3D, self.to_value.weight),
            gate_I1=project(self.gate_3D, ones_1D) if gated else weight_LD.new_zeros(0, 1),
            coupling_LG=self.to_coupling(weight_LD) if self.coupling is not None else None,
        )

    def _rows(self, ids_BT: Tensor, state: StreamState) -> Tensor:
        """(B, T, 3): rows of a table for the taps at t-2, t-1 and t."""
        if ids_BT.shape[1] == 0 or ids_BT.shape[1] % self.config.chunk:
            raise InvalidInputError(
                f"A stream of {ids_BT.shape[1]} tokens; give a multiple of chunk = "
                f"{self.config.chunk}, at least one chunk."
            )
        padded = torch.cat([state.history_B2, ids_BT], dim=1)
        vocab, length = self.config.vocab, ids_BT.shape[1]
        return torch.stack([padded[:, i : i + length] + i * vocab for i in range(TAPS)], dim=2)

    def _gate(
        self, ids_BT: Tensor, rows_BT3: Tensor, state: StreamState, tables: _Tables
    ) -> tuple[Tensor, Tensor | None]:
        """Gate logits (B, N, C) and the coupling after the chunks."""
        chunk = self.config.chunk
        if not self.store.gated:
            shape = (ids_BT.shape[0], ids_BT.shape[1] // chunk, chunk)
            return tables.key_IK.new_zeros(shape), None
        local_BT = tables.gate_I1.squeeze(1)[rows_BT3].sum(dim=2) + self.gate_bias
        logit_BNC = local_BT.reshape(len(local_BT), -1, chunk)
        if self.coupling is None or tables.coupling_LG is None or state.coupling is None:
            return logit_BNC, None
        mean_NG = functional.embedding_bag(
            ids_BT.reshape(-1, chunk), tables.coupling_LG, mode="mean"
        )
        enter_BNG, keep_BNG = mean_NG.reshape(*logit_BNC.shape[:2], -1).chunk(2, dim=2)
        add_BN, coupling = self.coupling(enter_BNG, keep_BNG, state.coupling)
        return logit_BNC + add_BN.unsqueeze(2), coupling

    def _candidates(
        self, rows_BT3: Tensor, logit_BNC: Tensor, tables: _Tables, busy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and gate logits of the candidates of the busy chunks: (B, n, R, ...)."""
        length = logit_BNC.shape[2]
        busy_BNC = logit_BNC[:, busy]
        where_BNR = self.store.candidates(busy_BNC)
        offset_N1 = busy.unsqueeze(1) * length
        rows_BR3 = take(rows_BT3, (where_BNR + offset_N1).flatten(1))
        shape = where_BNR.shape
        k_BNRK = functional.normalize(_lookup(rows_BR3, tables.key_IK), dim=-1)
        v_BNRV = _lookup(rows_BR3, tables.value_IV)
        return (
            k_BNRK.reshape(*shape, -1),
            v_BNRV.reshape(*shape, -1),
            busy_BNC.gather(2, where_BNR),
        )

    def _absorb(
        self, ids_BT: Tensor, state: StreamState, tables: _Tables
    ) -> tuple[StreamState, Tensor]:
        rows_BT3 = self._rows(ids_BT, state)
        logit_BNC, coupling = self._gate(ids_BT, rows_BT3, state, tables)
        written_BNC = logit_BNC.flatten(1).unsqueeze(1) if self.store.merges else logit_BNC
        busy = (~self.store.idle(written_BNC)).nonzero().flatten()
        k_BNRK, v_BNRV, logit_BNR = self._candidates(rows_BT3, written_BNC, tables, busy)
        store = state.store
        for index in range(len(busy)):
            store = self.store.write(store, k_BNRK[:, index], v_BNRV[:, index], logit_BNR[:, index])
        after = StreamState(
            store=store, coupling=coupling, history_B2=_last_two(ids_BT, state), windows=None
        )
        return after, logit_BNC

    def _memory(
        self, ids_BT: Tensor, state: StreamState, tables: _Tables
    ) -> tuple[Tensor, StreamState, Tensor]:
        """The first block's input (B, N, C, D), the state without windows, the gate logits."""
        chunk = self.config.chunk
        rows_BT3 = self._rows(ids_BT, state)
        logit_BNC, coupling = self._gate(ids_BT, rows_BT3, state, tables)
        every = torch.arange(logit_BNC.shape[1], device=ids_BT.device)
        k_BNRK, v_BNRV, logit_BNR = self._candidates(rows_BT3, logit_BNC, tables, every)
        q_BTK = functional.normalize(_lookup(rows_BT3, tables.query_IK), dim=-1)
        store, reads = state.store, []
        for index, q_BCK in enumerate(_pieces(q_BTK, chunk)):
            reads.append(self.store.read(store, q_BCK))
            store = self.store.write(store, k_BNRK[:, index], v_BNRV[:, index], logit_BNR[:, index])
        h_BTD = self.embedding(ids_BT) + self.from_memory(torch.cat(reads, dim=1))
        after = StreamState(
            store=store, coupling=coupling, history_B2=_last_two(ids_BT, state), windows=None
        )
        return h_BTD.reshape(len(h_BTD), -1, chunk, h_BTD.shape[2]), after, logit_BNC

    def _head(self, h_BNCD: Tensor) -> Tensor:
        scale = self.config.width**-0.5
        return functional.linear(self.norm(h_BNCD).flatten(1, 2) * scale, self.embedding.weight)


def _taps(start: tuple[float, float, float], width: int) -> nn.Parameter:
    return nn.Parameter(torch.tensor(start).unsqueeze(1).repeat(1, width))


def _build_store(config: MemoryLMConfig) -> MemoryStore:
    if isinstance(config.store, DeltaConfig):
        return DeltaStore(config.store, threshold=config.gate.threshold)
    return SlotStore(config.store, threshold=config.gate.threshold)


def _lookup(rows_BT3: Tensor, table_IX: Tensor) -> Tensor:
    """Sum over the taps: (B, T, X)."""
    found = functional.embedding_bag(rows_BT3.flatten(0, 1), table_IX, mode="sum")
    return found.reshape(*rows_BT3.shape[:2], -1)


def _pieces(x_BTX: Tensor, length: int) -> list[Tensor]:
    """Consecutive stretches along axis 1; none of an empty one."""
    return [x_BTX[:, i : i + length] for i in range(0, x_BTX.shape[1], length)]


def _last_two(ids_BT: Tensor, state: StreamState) -> Tensor:
    return torch.cat([state.history_B2, ids_BT], dim=1)[:, -(TAPS - 1) :]


def _with_windows(state: StreamState, windows: tuple[WindowCache, ...]) -> StreamState:
    return StreamState(
        store=state.store,
        coupling=state.coupling,
        history_B2=state.history_B2,
        windows=windows,
    )


def _draw(model: MemoryLM, generator: torch.Generator) -> None:
    """Draws every matrix from `generator`; vectors keep their starting values."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
        if model.coupling is not None:
            model.to_coupling.bias.zero_()
            model.to_coupling.bias[model.config.gate.coupling :] = _KEEP_START
