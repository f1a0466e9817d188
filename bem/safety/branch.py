"""Prefill once, continue many times: a branch that acts from the last prompt token on.

The prompt runs through the base and the skill without the branch. Its last hidden state feeds a
value head; then the last prompt token runs again beside the KV cache with the branch at a row's
own strength, and so do the tokens after it. Teacher forcing and decoding share this path, so both
see the same model. The repeated token's first keys and values are masked out, not cut out.
It knows neither how a strength is chosen nor what is said.

Legend: B rows, P prompt positions, A answer positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from bem.context import RoutingContext, Strength
from bem.injection import AdapterHost


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prefill:
    """What a batch of prompts left behind."""

    last_hidden_BD: Tensor
    """Last hidden state (normed) at each row's last prompt token."""
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    """One pair a decoder layer."""
    mask_BP: Tensor
    """1 at prompt tokens that a continuation may look at: not padding, not the last token."""
    last_token_B: Tensor
    length_B: Tensor
    """Prompt tokens of each row."""

    def take(self, index_K: Tensor) -> Prefill:
        """The rows `index_K`."""
        return Prefill(
            last_hidden_BD=self.last_hidden_BD[index_K],
            keys_values=tuple((k[index_K], v[index_K]) for k, v in self.keys_values),
            mask_BP=self.mask_BP[index_K],
            last_token_B=self.last_token_B[index_K],
            length_B=self.length_B[index_K],
        )


@torch.no_grad()
def prefill(
    host: AdapterHost,
    input_ids_BP: Tensor,
    mask_BP: Tensor,
    adapters: tuple[str, ...],
    strength: Mapping[str, Strength],
) -> Prefill:
    """Runs right-padded prompts through the base and `adapters` (never the branch)."""
    cache = DynamicCache(config=host.model.config)
    h_BPD = host.hidden_states(
        input_ids_BP,
        mask_BP,
        routing=RoutingContext(adapters=adapters, strength=strength),
        past_key_values=cache,
    )
    length_B = mask_BP.sum(1)
    rows_B = torch.arange(len(length_B), device=length_B.device)
    visible_BP = mask_BP.clone()
    visible_BP[rows_B, length_B - 1] = 0
    return Prefill(
        last_hidden_BD=h_BPD[rows_B, length_B - 1],
        keys_values=tuple((layer.keys, layer.values) for layer in cache.layers),
        mask_BP=visible_BP,
        last_token_B=input_ids_BP[rows_B, length_B - 1],
        length_B=length_B,
    )


def _cache_of(state: Prefill) -> DynamicCache:
    """A fresh cache over the prefill's tensors; appending to it leaves them as they are."""
    return DynamicCache(state.keys_values)


def continue_logits(
    host: AdapterHost,
    state: Prefill,
    answer_ids_BA: Tensor,
    answer_mask_BA: Tensor,
    *,
    adapters: tuple[str, ...],
    strength: Mapping[str, Strength],
) -> Tensor:
    """Logits (B, A, V) that predict the answer tokens under teacher forcing."""
    ids_BA = torch.cat([state.last_token_B[:, None], answer_ids_BA[:, :-1]], dim=1)
    ones_B1 = torch.ones_like(state.mask_BP[:, :1])
    later_BA = answer_mask_BA[:, :-1].to(state.mask_BP.dtype)
    mask_BX = torch.cat([state.mask_BP, ones_B1, later_BA], dim=1)
    steps_A = torch.arange(ids_BA.shape[1], device=ids_BA.device)
    return _logits(
        host,
        ids_BA,
        mask_BX,
        RoutingContext(adapters=adapters, strength=strength),
        _cache_of(state),
        (state.length_B - 1)[:, None] + steps_A,
    )


def _logits(
    host: AdapterHost,
    ids_BX: Tensor,
    mask_BX: Tensor,
    routing: RoutingContext,
    cache: DynamicCache,
    position_ids: Tensor,
) -> Tensor:
    kwargs = {"routing": routing, "past_key_values": cache, "position_ids": position_ids}
    if host.base.head_is_plain:
        return host.base.head(host.hidden_states(ids_BX, mask_BX, **kwargs))
    logits: Tensor = host(ids_BX, mask_BX, **kwargs).logits
    return logits


@torch.inference_mode()
def continue_greedy(
    host: AdapterHost,
    state: Prefill,
    *,
    adapters: tuple[str, ...],
    strength: Mapping[str, Strength],
    max_new_tokens: int,
    eos_id: int,
) -> list[list[int]]:
    """Greedy answers, without eos. The context is shared by all decode steps."""
    cache = _cache_of(state)
    context = RoutingContext(adapters=adapters, strength=strength)
    mask_BX = state.mask_BP
    token_B = state.last_token_B
    done_B = torch.zeros_like(token_B, dtype=torch.bool)
    steps: list[Tensor] = []
    for step in range(max_new_tokens):
        mask_BX = torch.cat([mask_BX, torch.ones_like(mask_BX[:, :1])], dim=1)
        position_ids = (state.length_B - 1 + step)[:, None]
        logits_B1V = _logits(host, token_B[:, None], mask_BX, context, cache, position_ids)
        token_B = logits_B1V[:, -1].argmax(-1)
        steps.append(token_B)
        done_B = done_B | (token_B == eos_id)
        if bool(done_B.all()):
            break
    rows = torch.stack(steps, dim=1).tolist()
    return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]
