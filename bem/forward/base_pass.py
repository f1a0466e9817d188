"""A pass of the base alone before the adapted forward, for adapters that read its last features.

It keeps no second KV cache: at a decode step it runs over all tokens so far again, whose ids it
keeps beside the KV cache. It knows no kind of adapter.

Legend: B rows, T positions of this forward, L positions so far with them, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bem.context import RoutingContext, Stream
from bem.errors import RoutingError
from bem.forward.streams import follow
from bem.interfaces import Adapter


@torch.no_grad()
def base_pass(
    decoder: Any,
    name: str,
    context: RoutingContext,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    known: bool,
) -> Tensor:
    """Last hidden states (B, T, D) of this forward's positions; adapters must be off.

    Args:
        name: the adapter that asks, for its state in `context` and for errors.
        args, kwargs: what the decoder is about to be called with.
        known: whether the caller gave `context`.

    Raises:
        RoutingError: the forward has embeddings instead of ids, or decodes with another context
            than its prefill.
    """
    ids_BT = kwargs.get("input_ids", args[0] if args else None)
    if ids_BT is None:
        raise RoutingError(f"Adapter '{name}' runs the base first: give input_ids.")
    past = kwargs.get("past_key_values")
    cached = 0 if past is None else int(past.get_seq_length())
    width = ids_BT.shape[1]
    places_BT = kwargs.get("position_ids")
    if places_BT is None:
        places_BT = torch.arange(cached, cached + width, device=ids_BT.device)
    places_BT = places_BT.expand(ids_BT.shape[0], width)
    ids_BL, places_BL = ids_BT, places_BT
    if cached:
        stream = context.streams.get(name) if known else None
        if stream is None or stream.positions != cached:
            stood = 0 if stream is None else stream.positions
            raise RoutingError(
                f"Adapter '{name}' has seen {stood} positions, the KV cache holds {cached}: use "
                "the RoutingContext of the prefill for every step, and for nothing else."
            )
        ids_BL = torch.cat([stream.tensors["input_ids"], ids_BT], dim=1)
        places_BL = torch.cat([stream.tensors["position_ids"], places_BT], dim=1)
    elif known and past is not None:
        follow(past, context)
    if known:
        context.streams[name] = Stream(
            positions=cached + width, tensors={"input_ids": ids_BL, "position_ids": places_BL}
        )
    out = decoder.forward(
        input_ids=ids_BL,
        attention_mask=kwargs.get("attention_mask"),
        position_ids=places_BL,
        use_cache=False,
    )
    h_BLD: Tensor = out.last_hidden_state
    return h_BLD[:, -width:]


def read_base(
    decoder: Any,
    name: str,
    adapter: Adapter,
    context: RoutingContext,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    known: bool,
) -> None:
    """The first pass, and the codes that the adapter reads off it, to its layers and records."""
    state = adapter.state
    h_BTD = base_pass(decoder, name, context, args, kwargs, known=known)
    codes = adapter.read_base(h_BTD)
    if state.code_map is not None:
        codes = [state.code_map(code) for code in codes]
    state.codes = codes
    if state.trace is not None:
        state.trace.extend(code.detach() for code in codes)
    if state.site_codes is not None:
        state.site_codes.update(enumerate(code.detach() for code in codes))
