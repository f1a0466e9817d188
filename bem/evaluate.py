"""Scores of a host on examples: teacher-forced exact match, greedy generation, their agreement.

"Every target token is the argmax under teacher forcing" equals greedy exact match, at the price of
one forward. It knows nothing of statistics: it returns one value an example, in input order.

Legend: B rows, T positions, N scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from bem.context import RoutingContext
from bem.data import IGNORED, Batch, Encoded, pad, pad_id_of
from bem.errors import AgreementError, InvalidInputError
from bem.injection import AdapterHost

Routing = Callable[[Batch, Sequence[int]], RoutingContext]
"""The routing context of a batch, given the positions of its rows in the examples."""


def prompt_routing(batch: Batch, index: Sequence[int]) -> RoutingContext:
    """The default: the prompt mask and nothing else."""
    return batch.routing()


def buckets(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices grouped by length so that rows times longest row stays within `max_tokens`."""
    chunk: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if chunk and (len(chunk) + 1) * lengths[index] > max_tokens:
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk


def target_logits(host: AdapterHost, batch: Batch, routing: RoutingContext) -> Tensor:
    """Logits (N, V) that predict the target tokens, row by row; the head runs only on these."""
    scored_BT = batch.labels_BT[:, 1:] != IGNORED
    if host.base.head_is_plain:
        h_BTD = host.hidden_states(batch.input_ids_BT, batch.attention_mask_BT, routing=routing)
        return host.base.head(h_BTD[:, :-1][scored_BT])
    logits_BTV: Tensor = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
    return logits_BTV[:, :-1][scored_BT]


def target_loss(host: AdapterHost, batch: Batch, routing: RoutingContext) -> Tensor:
    """`answer_loss` without prompt weight, cheaper: the mean over target tokens."""
    labels_N = batch.labels_BT[:, 1:]
    labels_N = labels_N[labels_N != IGNORED]
    return torch.nn.functional.cross_entropy(target_logits(host, batch, routing), labels_N)


@torch.inference_mode()
def teacher_forced_exact_match(
    host: AdapterHost,
    encoded: Sequence[Encoded],
    *,
    routing: Routing = prompt_routing,
    max_tokens: int = 4096,
) -> list[bool]:
    """For each example: is every target token, eos included, the argmax given those before it?"""
    hits = [False] * len(encoded)
    for index, scored_BT, logits_NV, labels_N in _scored(host, encoded, routing, max_tokens):
        wrong_N = logits_NV.argmax(-1) != labels_N
        wrong_BT = torch.zeros_like(scored_BT).masked_scatter(scored_BT, wrong_N)
        for i, miss in zip(index, wrong_BT.any(1).tolist(), strict=True):
            hits[i] = not miss
    return hits


@torch.inference_mode()
def target_nll(
    host: AdapterHost,
    encoded: Sequence[Encoded],
    *,
    routing: Routing = prompt_routing,
    max_tokens: int = 4096,
) -> list[float]:
    """For each example: -log p(target | prompt) in nats, summed over its tokens, eos included."""
    found = [0.0] * len(encoded)
    for index, scored_BT, logits_NV, labels_N in _scored(host, encoded, routing, max_tokens):
        nll_N = torch.nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
        nll_BT = nll_N.new_zeros(scored_BT.shape).masked_scatter(scored_BT, nll_N)
        for i, nll in zip(index, nll_BT.sum(1).tolist(), strict=True):
            found[i] = nll
    return found


def _scored(
    host: AdapterHost, encoded: Sequence[Encoded], routing: Routing, max_tokens: int
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
    """By batch: positions of its rows in the examples, where target tokens are predicted
    (B, T - 1), the logits there (N, V) and the tokens (N,)."""
    pad_id = pad_id_of(host.base.tokenizer)
    for index in buckets([e.length for e in encoded], max_tokens):
        batch = pad([encoded[i] for i in index], pad_id=pad_id, device=host.base.device)
        labels_BT = batch.labels_BT[:, 1:]
        scored_BT = labels_BT != IGNORED
        yield (
            index,
            scored_BT,
            target_logits(host, batch, routing(batch, index)),
            labels_BT[scored_BT],
        )


@torch.inference_mode()
def greedy_generate(
    host: AdapterHost,
    encoded: Sequence[Encoded],
    *,
    max_new_tokens: int,
    routing: Routing = prompt_routing,
    max_tokens: int = 4096,
) -> list[list[int]]:
    """Greedy continuations of the prompts (targets are not looked at), up to and with eos."""
    outputs: list[list[int]] = [[] for _ in encoded]
    pad_id = pad_id_of(host.base.tokenizer)
    lengths = [len(e.prompt_ids) + max_new_tokens for e in encoded]
    for index in buckets(lengths, max_tokens):
        rows = [encoded[i] for i in index]
        batch = pad(rows, pad_id=pad_id, device=host.base.device, prompt_only=True)
        generated = _generate(host, batch, routing(batch, index), max_new_tokens)
        for i, tokens in zip(index, generated, strict=True):
            outputs[i] = tokens
    return outputs


def _generate(
    host: AdapterHost, batch: Batch, context: RoutingContext, max_new_tokens: int
) -> list[list[int]]:
    """Prefill right-padded prompts, then decode token by token beside the KV cache."""
    eos = host.base.tokenizer.eos_token_id
    mask_BT = batch.attention_mask_BT
    cache = DynamicCache(config=host.model.config)
    length_B = mask_BT.sum(1)
    out = host(
        batch.input_ids_BT,
        mask_BT,
        routing=context,
        past_key_values=cache,
        position_ids=(mask_BT.cumsum(1) - 1).clamp_min(0),
    )
    rows_B = torch.arange(len(length_B), device=length_B.device)
    token_B = out.logits[rows_B, length_B - 1].argmax(-1)
    steps = [token_B]
    done_B = token_B == eos
    for step in range(max_new_tokens - 1):
        if bool(done_B.all()):
            break
        mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)
        out = host(
            token_B[:, None],
            mask_BT,
            routing=context,
            past_key_values=cache,
            position_ids=(length_B + step)[:, None],
        )
        token_B = out.logits[:, -1].argmax(-1)
        steps.append(token_B)
        done_B = done_B | (token_B == eos)
    return [_until(row, eos) for row in torch.stack(steps, dim=1).tolist()]


def _until(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def decode(host: AdapterHost, tokens: Sequence[Sequence[int]]) -> list[str]:
    """Texts of generated tokens, without special tokens."""
    tokenizer: Any = host.base.tokenizer
    return [tokenizer.decode(list(row), skip_special_tokens=True) for row in tokens]


def assert_agreement(
    host: AdapterHost,
    encoded: Sequence[Encoded],
    hits: Sequence[bool],
    *,
    routing: Routing = prompt_routing,
) -> None:
    """Raise AgreementError unless greedy generation is exact on just the examples of `hits`."""
    if len(hits) != len(encoded):
        raise InvalidInputError(f"{len(hits)} hits for {len(encoded)} examples.")
    longest = max(len(e.target_ids) for e in encoded)
    texts = greedy_generate(host, encoded, max_new_tokens=longest, routing=routing)
    exact = [tuple(t) == e.target_ids for t, e in zip(texts, encoded, strict=True)]
    differ = [e.id for e, a, b in zip(encoded, exact, hits, strict=True) if a != b]
    if differ:
        raise AgreementError(
            f"Generation and teacher forcing disagree on {len(differ)} of {len(encoded)} "
            f"examples, first '{differ[0]}'."
        )
