"""Text in, text out: Hugging Face's `generate` under one routing context.

Prompts are left padded; rows of the context are repeated for beams and returned sequences; drawing
takes a Generator. It knows no kind of adapter.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bem.context import RoutingContext
from bem.data import pad_id_of
from bem.errors import InvalidInputError, RoutingError
from bem.injection import AdapterHost

NEW_TOKENS = 64
"""Where the caller says nothing about the length."""
_LENGTHS = ("max_new_tokens", "max_length", "generation_config")
_OURS = ("inputs", "input_ids", "attention_mask", "inputs_embeds", "past_key_values")


def left_padded(host: AdapterHost, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T) of prompts, padding first."""
    pad_id = pad_id_of(host.base.tokenizer)
    rows = host.base.tokenizer(list(texts))["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise InvalidInputError(f"The prompt {text!r} has no token.")
    width = max(len(row) for row in rows)
    ids = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    device = host.base.device
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@torch.no_grad()
def generate_texts(
    host: AdapterHost,
    texts: Sequence[str],
    context: RoutingContext,
    *,
    generator: torch.Generator | None,
    **kwargs: Any,
) -> list[str]:
    """Continuations in the order of the prompts, `num_return_sequences` of each.

    Args:
        context: with rows in the order of `texts`; its prompt mask is set here.
        generator: draws, where tokens are sampled.
        kwargs: of Hugging Face's `generate`. Nothing said about the length: 64 new tokens.

    Raises:
        InvalidInputError: sampling without a generator, or a keyword that is set here.
        RoutingError: `use_cache=False`, under which the prompt cannot be told from what follows.
    """
    taken = [key for key in _OURS if key in kwargs]
    if taken:
        raise InvalidInputError(f"'{taken[0]}' is made from the inputs: do not give it.")
    if kwargs.get("use_cache") is False:
        raise RoutingError("use_cache=False: the prompt could not be told from what follows it.")
    if not any(key in kwargs for key in _LENGTHS):
        kwargs["max_new_tokens"] = NEW_TOKENS
    defaults = kwargs.get("generation_config", host.model.generation_config)
    samples = kwargs.get("do_sample", defaults.do_sample)
    if samples and generator is None:
        raise InvalidInputError(
            "Sampling draws at random: give generator=torch.Generator().manual_seed(...), or "
            "do_sample=False."
        )
    kwargs.setdefault("pad_token_id", pad_id_of(host.base.tokenizer))
    ids_BT, mask_BT = left_padded(host, texts)
    context.prefix_mask_BT = mask_BT.bool()
    with host.routing(context), _rows_repeated(host, context), _drawing(generator, ids_BT.device):
        out = host.model.generate(
            input_ids=ids_BT, attention_mask=mask_BT, **kwargs, return_dict_in_generate=False
        )
    made = out[:, ids_BT.shape[1] :].tolist()
    decoded: list[str] = host.base.tokenizer.batch_decode(made, skip_special_tokens=True)
    return decoded


@contextmanager
def _rows_repeated(host: AdapterHost, context: RoutingContext) -> Iterator[None]:
    """`generate` repeats its rows after it is called: the first forward says how often."""

    def prefill(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        past = kwargs.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:
            return
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs["inputs_embeds"] if tokens is None else tokens
        context.repeat_to(tokens.shape[0], tokens.device)

    hook = host.base.decoder.register_forward_pre_hook(prefill, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _drawing(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """transformers draws from the global state: inside, one that `generator` seeds."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
