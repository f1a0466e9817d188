"""What one forward tells an adapter before its layers run: strength, records, codes.

`AdapterHost` calls `prepare` at the start of each forward, and `set_codes` once an adapter has
encoded the prompt. It knows neither hosts nor kinds of adapters.

Legend: B rows, T positions, S sites, R code size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bem.context import RoutingContext
from bem.errors import RoutingError
from bem.forward.streams import start_stream
from bem.forward.wrapping import forward_strength
from bem.interfaces import Adapter


def prepare(
    name: str,
    adapter: Adapter,
    context: RoutingContext,
    kwargs: Mapping[str, Any],
    mask_BT: Tensor | None,
    *,
    decoding: bool,
    known: bool,
) -> bool:
    """Set the adapter's state for this forward; False where it does not act.

    Args:
        kwargs: what the decoder is called with.
        mask_BT: True at real tokens; None: there is no padding.
        known: whether the caller gave `context`, so that codes can be kept in it.
    """
    state = adapter.state
    asked = adapter.has_auxiliary_loss and torch.is_grad_enabled()
    state.auxiliary = [] if asked and adapter.num_parameters() else None
    state.token_mask_BT = mask_BT
    state.recomputed = False
    state.strength, state.strength_rows = forward_strength(context.strength_of(name), decoding)
    if state.strength == 0.0:
        return False
    state.code_map = context.code_map
    state.trace = context.trace.setdefault(name, []) if context.record else None
    state.site_codes = context.site_codes.setdefault(name, {}) if context.record else None
    state.signals = context.signals.setdefault(name, {}) if context.record else None
    if adapter.feature_layer is not None:
        if adapter.reads_prompt or name in context.codes:
            _start_codes(name, adapter, context, decoding=decoding, known=known)
        if adapter.streams:
            start_stream(name, adapter, context, kwargs, known=known)
    return True


def set_codes(
    name: str, adapter: Adapter, context: RoutingContext, codes_BSR: Tensor, *, known: bool = True
) -> None:
    """The sequence codes of this forward, to the layers, the context and its records."""
    state = adapter.state
    if state.code_map is not None:
        codes_BSR = state.code_map(codes_BSR)
    if state.trace is not None:
        state.trace.append(codes_BSR.detach())
    if known:
        context.cache[name] = codes_BSR
    state.codes, state.spread_of = adapter.spread(codes_BSR), codes_BSR
    if state.site_codes is not None:
        state.site_codes.update(enumerate(code.detach() for code in state.codes))


def _start_codes(
    name: str, adapter: Adapter, context: RoutingContext, *, decoding: bool, known: bool
) -> None:
    state = adapter.state
    if decoding and _stay(name, adapter, context):
        return
    state.codes, state.spread_of = (), None
    if name in context.codes:
        set_codes(name, adapter, context, context.codes[name], known=known)
    elif decoding:
        if name not in context.cache:
            raise RoutingError(
                f"Adapter '{name}' decodes without its code: use the RoutingContext of the prefill."
            )
        state.codes = adapter.spread(context.cache[name])
        state.spread_of = context.cache[name]
    elif context.prefix_mask_BT is None:
        raise RoutingError(
            f"Adapter '{name}' reads the prompt: give RoutingContext(prefix_mask_BT=...)."
        )


def _stay(name: str, adapter: Adapter, context: RoutingContext) -> bool:
    """Whether the codes are those that the last step of this very context left. Never while a
    graph is traced, which would hold for these tensors only."""
    state = adapter.state
    found = None if name in context.codes else context.cache.get(name)
    return found is not None and state.spread_of is found and not torch.compiler.is_compiling()
