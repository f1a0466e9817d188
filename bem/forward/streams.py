"""Causal codes across forwards: their state is checked, advanced and put back beside the KV cache.

`AdapterHost` calls `start_stream` before a forward and `advance_stream` at the adapter's feature
layer. How a code is made is the adapter's affair (`Adapter.advance`).

Legend: B rows, T positions, K chunks, S sites, R code size, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from bem.context import RoutingContext, Stream
from bem.errors import RoutingError
from bem.interfaces import Adapter, AdapterState, CausalCodes

AT_ONCE = 1 << 20
"""Without gradients so many numbers are gathered at once, 4 MiB in float32."""


class CodesBySite(Sequence[Tensor]):
    """The causal code of each site, (B, T, R), gathered when it is asked for; all at once where
    they are few, as at a decode step of one token: its time is in calls and not in bytes."""

    def __init__(self, codes: CausalCodes) -> None:
        self._codes_BKSR = codes_BKSR = codes.codes_BKSR
        self._chunk_BT1 = codes.chunk_BT.unsqueeze(-1)
        self._gathered: tuple[Tensor, ...] | None = None
        length, (sites, rank) = codes.chunk_BT.shape[1], codes_BKSR.shape[2:]
        small = not torch.is_grad_enabled() and codes.chunk_BT.numel() * sites * rank <= AT_ONCE
        if length == codes_BKSR.shape[1] == 1:
            self._gathered = codes_BKSR.unbind(2)
        elif length == 1 or small:
            index_BTSR = self._chunk_BT1.unsqueeze(-1).expand(-1, -1, sites, rank)
            self._gathered = codes_BKSR.gather(1, index_BTSR).unbind(2)

    def __len__(self) -> int:
        return self._codes_BKSR.shape[2]

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._gathered is not None:
            return self._gathered[index]
        code_BKR = self._codes_BKSR[:, :, index]
        return code_BKR.gather(1, self._chunk_BT1.expand(-1, -1, code_BKR.shape[-1]))


def start_stream(
    name: str, adapter: Adapter, context: RoutingContext, kwargs: Mapping[str, Any], *, known: bool
) -> None:
    """Before a forward: forget the state at a prefill, check it at a decode step.

    Raises:
        RoutingError: there is no context to keep the state in, the state does not belong to this
            KV cache, or the attention mask does not say which tokens are real.
    """
    if not known:
        raise RoutingError(
            f"Adapter '{name}' has causal codes: give a RoutingContext, which keeps their state."
        )
    masked = kwargs.get("attention_mask") is not None and not context.unpadded
    if masked and adapter.state.token_mask_BT is None:
        raise RoutingError(
            f"Adapter '{name}' counts real tokens: give attention_mask as (B, T) or None."
        )
    adapter.state.causal_codes, adapter.state.causal_source = (), None
    if not adapter.reads_prompt and name not in context.codes:
        adapter.state.codes = ()
    past = kwargs.get("past_key_values")
    cached = 0 if past is None else int(past.get_seq_length())
    if cached == 0:
        context.streams.pop(name, None)
        if past is not None:
            follow(past, context)
        return
    stood = context.streams[name].positions if name in context.streams else 0
    if stood != cached:
        raise RoutingError(
            f"Adapter '{name}' has seen {stood} positions, the KV cache holds {cached}: use the "
            "RoutingContext of the prefill for every step, and for nothing else."
        )


def follow(cache: Any, context: RoutingContext) -> None:
    """From now on a beam search that reorders this KV cache reorders the context with it."""
    context = context.whole or context
    known = cache.reorder_cache
    if getattr(known, "follower", None) is context:
        return
    original = getattr(known, "original", known)

    def reorder_cache(beam_idx: Tensor) -> None:
        original(beam_idx)
        context.reorder(beam_idx)

    reorder_cache.original, reorder_cache.follower = original, context  # type: ignore[attr-defined]
    cache.reorder_cache = reorder_cache


def advance_stream(name: str, adapter: Adapter, context: RoutingContext, h_BTD: Tensor) -> None:
    """At the feature layer: this forward's codes to the layers, the new state to the context."""
    state = adapter.state
    valid_BT = state.token_mask_BT
    if valid_BT is None:
        valid_BT = torch.ones(h_BTD.shape[:2], dtype=torch.bool, device=h_BTD.device)
    past = context.streams.get(name)
    made = adapter.advance(h_BTD, valid_BT, None if past is None else past.tensors)
    seen = h_BTD.shape[1] + (0 if past is None else past.positions)
    context.streams[name] = Stream(positions=seen, tensors=made.state)
    if state.code_map is not None:
        made = CausalCodes(
            codes_BKSR=state.code_map(made.codes_BKSR), chunk_BT=made.chunk_BT, state=made.state
        )
    if state.trace is not None:
        state.trace.append(made.codes_BKSR.detach())
    state.causal_codes = _by_site(state, made)
    state.causal_source = made.source
    if state.site_codes is not None:
        state.site_codes.update(enumerate(code.detach() for code in state.causal_codes))


def _by_site(state: AdapterState, made: CausalCodes) -> Sequence[Tensor]:
    """Over decode steps that name the same source, what the first of them made. Never while a graph
    is traced, which would hold for these tensors only."""
    source, kept = made.source, state.kept_causal
    if source is None or torch.compiler.is_compiling():
        return CodesBySite(made)
    if kept is None or kept[0] is not source:
        kept = state.kept_causal = (source, CodesBySite(made))
    return kept[1]
