"""Runs plans chunk by chunk over one KV cache, in batches.

A sequence is a prompt followed by chunks. A chunk is given tokens (a marker, perhaps retrieved
text), then greedily generated ones up to a separator. An adapter acts where it decides: on the last
given token and on all that it writes. What is merely read (the prompt, what a chunk is given) is
read by the base as it is, and what stands in the cache stays, so no token is computed twice. A
`Walk` is never changed: `extend` returns a new one, so plans with a common beginning share it. One
more adapter may lie over all of them (`Over`), as a safety branch does. It knows neither what the
skills do nor how a plan is chosen.

Legend: B rows, S cached positions, T new positions, H heads, K head size, D hidden size, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from bem.context import RoutingContext
from bem.data import pad_id_of
from bem.errors import InvalidInputError
from bem.injection import AdapterHost

_LEAST_ROWS = 24
"""Batches smaller than this are not thinned out: dispatch costs more than the idle rows."""
_THIN_OUT_AT = 0.6
"""Share of rows still writing at which the others leave the batch."""


class _Buffer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for the whole chunk: appending copies nothing."""

    def __init__(self, keys_BHSK: Tensor, values_BHSK: Tensor, length: int) -> None:
        super().__init__()
        self.keys, self.values = keys_BHSK, values_BHSK
        self.length = length
        self.dtype, self.device = keys_BHSK.dtype, keys_BHSK.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """An adapter that lies over whatever else acts."""

    adapter: str
    """Its name on the host."""
    strength: float
    reads: bool = False
    """It acts on what is merely read too: the prompt, what a chunk is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """A batch of sequences so far."""

    kv: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values (B, H, S, K) of every layer."""
    mask_BS: Tensor
    """1 where a cached position holds a token of the row, 0 at holes."""
    length_B: Tensor
    """Tokens of each row: the position of the next one."""
    codes: Mapping[str, Tensor]
    """Sequence codes (B, sites, R) read off the prompt, by adapter name."""

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.mask_BS.device

    def take(self, rows: Tensor) -> Walk:
        """The walk of some rows."""
        return Walk(
            kv=tuple((k[rows], v[rows]) for k, v in self.kv),
            mask_BS=self.mask_BS[rows],
            length_B=self.length_B[rows],
            codes={name: code[rows] for name, code in self.codes.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefill:
    """What the prompt gave."""

    walk: Walk
    logits_BV: Tensor
    """Of the token after the prompt."""
    last_hidden_BD: Tensor
    """Last hidden state (normed) of each row's last prompt token."""
    features_BF: Tensor
    """For the policy: the last prompt token after a third, two thirds and all of the layers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """What one chunk gave."""

    walk: Walk
    tokens: list[list[int]]
    """Generated tokens without the separator."""
    logits_BV: Tensor
    """Of the token after the separator."""


class ChunkEngine:
    """Prefill and chunks of one host, without gradients."""

    def __init__(self, host: AdapterHost, *, separator_id: int) -> None:
        self.host = host
        self.separator_id = separator_id
        self.pad_id = pad_id_of(host.base.tokenizer)

    @torch.inference_mode()
    def prefill(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        acting: Sequence[str],
        ready: Sequence[str],
        over: Over | None = None,
    ) -> Prefill:
        """Runs the prompts.

        Args:
            prompts: token ids, one row each.
            acting: adapters that decide on the token after the prompt: they act on its last token.
            ready: adapters that do not, but whose codes are read off the prompt for later chunks.
            over: acts on the whole prompt where it reads; else it belongs to `ready`.
        """
        ids_BT, mask_BT = self._padded(prompts)
        length_B = mask_BT.sum(1)
        last_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) == length_B[:, None] - 1
        reading = _reading(over)
        context = RoutingContext(
            prefix_mask_BT=mask_BT.bool(),
            adapters=(*acting, *reading),
            strength={**{name: last_BT.float() for name in acting}, **reading},
        )
        cache = Cache(layers=[DynamicLayer() for _ in self.host.base.layers])
        with self.host.routing(context):
            out = self.host.base.decoder(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                past_key_values=cache,
                position_ids=(mask_BT.cumsum(1) - 1).clamp_min(0),
                use_cache=True,
                output_hidden_states=True,
            )
        codes = dict(context.cache)
        for name in ready:
            adapter = self.host[name]
            if adapter.feature_layer is not None:
                h_BTD = out.hidden_states[adapter.feature_layer]
                codes[name] = adapter.encode(h_BTD, mask_BT.bool(), None)
        rows_B = torch.arange(len(prompts), device=ids_BT.device)
        last_BTD = out.last_hidden_state
        depth = len(self.host.base.layers)
        # hidden_states[-1] is normed in most families; a policy standardises its features anyway.
        read = [round(depth * third / 3) for third in (1, 2, 3)]
        features_BF = torch.cat(
            [out.hidden_states[max(1, at)][rows_B, length_B - 1] for at in read], dim=1
        )
        walk = Walk(
            kv=tuple((layer.keys, layer.values) for layer in cache.layers),
            mask_BS=mask_BT,
            length_B=length_B,
            codes=codes,
        )
        return Prefill(
            walk=walk,
            logits_BV=self._head(last_BTD[rows_B, length_B - 1]),
            last_hidden_BD=last_BTD[rows_B, length_B - 1],
            features_BF=features_BF,
        )

    @torch.inference_mode()
    def extend(
        self,
        walk: Walk,
        adapter: str,
        given: Sequence[Sequence[int]],
        *,
        max_new: int,
        over: Over | None = None,
    ) -> Chunk:
        """One chunk under `adapter`: the given tokens, then at most `max_new` generated ones.

        `over` acts where `adapter` does, on its own at its strength, and where it reads also on
        what the chunk is given.

        A row that has not written its separator by then gets one: the budget is spent.
        """
        if any(len(row) < 2 for row in given):
            raise InvalidInputError("A chunk needs at least two given tokens.")
        ids_BT, new_mask_BT = self._padded([row[:-1] for row in given])
        start = walk.mask_BS.shape[1]
        width = ids_BT.shape[1]
        capacity = start + width + max_new + 2
        full = [_roomy(pair, capacity) for pair in walk.kv]
        mask_BS = torch.zeros(len(given), capacity, dtype=walk.mask_BS.dtype, device=ids_BT.device)
        mask_BS[:, :start] = walk.mask_BS
        mask_BS[:, start : start + width] = new_mask_BT
        cache = _cache(full, start)
        self.host.hidden_states(
            ids_BT,
            mask_BS[:, : start + width],
            routing=RoutingContext(
                adapters=tuple(_reading(over)),
                codes=_codes(walk, _reading(over)),
                strength=_reading(over),
            ),
            past_key_values=cache,
            position_ids=walk.length_B[:, None] + (new_mask_BT.cumsum(1) - 1).clamp_min(0),
        )

        strength = {} if over is None else {over.adapter: over.strength}
        names = (adapter, *strength)
        context = RoutingContext(adapters=names, codes=_codes(walk, names), strength=strength)
        length_B = walk.length_B + new_mask_BT.sum(1)
        token_B = torch.tensor([row[-1] for row in given], device=ids_BT.device)
        tokens: list[list[int]] = [[] for _ in given]
        after: dict[int, Tensor] = {}
        rows_B, column = torch.arange(len(given), device=ids_BT.device), start + width
        open_B = torch.ones_like(rows_B, dtype=torch.bool)
        for step in range(max_new + 2):
            mask_BS[rows_B, column] = open_B.to(mask_BS.dtype)
            column += 1
            h_BTD = self.host.hidden_states(
                token_B[:, None],
                mask_BS[rows_B, :column],
                routing=context,
                past_key_values=cache,
                position_ids=length_B[rows_B][:, None],
            )
            logits_BV = self._head(h_BTD[:, -1])
            length_B[rows_B] += open_B
            if step > 0:
                closing_B = open_B & (token_B == self.separator_id)
                after.update(zip(rows_B[closing_B].tolist(), logits_BV[closing_B], strict=True))
                open_B = open_B & ~closing_B
                writing = zip(rows_B[open_B].tolist(), token_B[open_B].tolist(), strict=True)
                for row, token in writing:
                    tokens[row].append(token)
            num_open = int(open_B.sum())
            if num_open == 0:
                break
            token_B = logits_BV.argmax(-1)
            if step == max_new:
                token_B = torch.full_like(token_B, self.separator_id)
            if len(rows_B) >= _LEAST_ROWS and num_open <= _THIN_OUT_AT * len(rows_B):
                # Closed rows leave the batch; what is cached so far goes back to all rows' buffers.
                _write_back(full, cache, rows_B, start + width, column)
                context = context.take(open_B.nonzero().squeeze(1))
                rows_B, token_B = rows_B[open_B], token_B[open_B]
                open_B = torch.ones_like(rows_B, dtype=torch.bool)
                cache = _cache([(k[rows_B], v[rows_B]) for k, v in full], column)
        _write_back(full, cache, rows_B, start + width, column)
        walk = Walk(
            kv=tuple((k[:, :, :column], v[:, :, :column]) for k, v in full),
            mask_BS=mask_BS[:, :column],
            length_B=length_B,
            codes=walk.codes,
        )
        after_BV = torch.stack([after[row] for row in range(len(given))])
        return Chunk(walk=walk, tokens=tokens, logits_BV=after_BV)

    def _head(self, h_BD: Tensor) -> Tensor:
        if not self.host.base.head_is_plain:
            raise InvalidInputError(
                f"Base '{self.host.base.ref}' scales or caps its logits; the chunk engine applies "
                "the plain output head only."
            )
        return self.host.base.head(h_BD)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        ids = [[*row, *[self.pad_id] * (width - len(row))] for row in rows]
        length_B1 = torch.tensor([len(row) for row in rows])[:, None]
        mask_BT = (torch.arange(width) < length_B1).long()
        return torch.tensor(ids).to(self.host.base.device), mask_BT.to(self.host.base.device)


def _reading(over: Over | None) -> dict[str, float]:
    """The strength of what acts on tokens that are merely read."""
    return {} if over is None or not over.reads else {over.adapter: over.strength}


def _codes(walk: Walk, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: walk.codes[name] for name in names if name in walk.codes}


def _roomy(pair: tuple[Tensor, Tensor], capacity: int) -> tuple[Tensor, Tensor]:
    """Copies of keys and values with room up to `capacity` positions."""
    wide = []
    for old_BHSK in pair:
        b, h, s, k = old_BHSK.shape
        new_BHSK = old_BHSK.new_zeros(b, h, capacity, k)
        new_BHSK[:, :, :s] = old_BHSK
        wide.append(new_BHSK)
    return wide[0], wide[1]


def _cache(buffers: Sequence[tuple[Tensor, Tensor]], length: int) -> Any:
    return Cache(layers=[_Buffer(k, v, length) for k, v in buffers])


def _write_back(
    full: Sequence[tuple[Tensor, Tensor]], cache: Any, rows_B: Tensor, first: int, end: int
) -> None:
    """Columns first..end of a thinned-out cache into the buffers of all rows."""
    for (keys, values), layer in zip(full, cache.layers, strict=True):
        if layer.keys is keys:
            return
        keys[rows_B, :, first:end] = layer.keys[:, :, first:end]
        values[rows_B, :, first:end] = layer.values[:, :, first:end]
