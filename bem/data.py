"""Examples to tensors: a prompt, its target, and the masks that say which is which.

Right padded; the target ends with eos; nothing is ever cut off silently. It knows neither models
nor what the texts mean.

Legend: B rows, T positions, V vocabulary, N labelled positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bem.context import RoutingContext
from bem.errors import InvalidInputError

IGNORED = -100
"""The label of positions that are not scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A prompt and the text that should follow it."""

    prompt: str
    target: str
    id: str
    cluster: str
    """Examples of one cluster are not independent; statistics resample clusters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """An example as token ids; the target ends with eos."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    id: str
    cluster: str

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt_ids) + len(self.target_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Right-padded rows."""

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    """1 at prompt and target, 0 at padding."""
    prefix_mask_BT: Tensor
    """True at the prompt."""
    labels_BT: Tensor
    """The token itself at target positions, -100 elsewhere (not shifted)."""
    ids: tuple[str, ...]
    clusters: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(
            input_ids_BT=self.input_ids_BT.to(device),
            attention_mask_BT=self.attention_mask_BT.to(device),
            prefix_mask_BT=self.prefix_mask_BT.to(device),
            labels_BT=self.labels_BT.to(device),
            ids=self.ids,
            clusters=self.clusters,
        )

    def routing(self, **fields: Any) -> RoutingContext:
        """A fresh routing context for this batch."""
        return RoutingContext(prefix_mask_BT=self.prefix_mask_BT, **fields)


def encode(
    examples: Sequence[Example], tokenizer: Any, *, max_len: int | None = None
) -> list[Encoded]:
    """Tokenize once; training loops collate the result at each step."""
    if not examples:
        return []
    prompts = tokenizer([e.prompt for e in examples])["input_ids"]
    targets = tokenizer([e.target for e in examples], add_special_tokens=False)["input_ids"]
    encoded = []
    for example, prompt_ids, target_ids in zip(examples, prompts, targets, strict=True):
        if not prompt_ids:
            raise InvalidInputError(f"Example '{example.id}': the prompt has no token.")
        row = Encoded(
            prompt_ids=tuple(prompt_ids),
            target_ids=(*target_ids, tokenizer.eos_token_id),
            id=example.id,
            cluster=example.cluster,
        )
        if max_len is not None and row.length > max_len:
            raise InvalidInputError(
                f"Example '{example.id}' has {row.length} tokens with its eos; allowed: {max_len}."
            )
        encoded.append(row)
    return encoded


def pad(
    encoded: Sequence[Encoded],
    *,
    pad_id: int,
    device: torch.device | str = "cpu",
    prompt_only: bool = False,
) -> Batch:
    """One batch of encoded rows; `prompt_only` leaves the targets out (for generation)."""
    if not encoded:
        raise InvalidInputError("A batch needs at least one example.")
    lengths = [len(e.prompt_ids) if prompt_only else e.length for e in encoded]
    width = max(lengths)
    ids, labels = [], []
    for row, length in zip(encoded, lengths, strict=True):
        target = () if prompt_only else row.target_ids
        fill = width - length
        ids.append([*row.prompt_ids, *target, *[pad_id] * fill])
        labels.append([*[IGNORED] * len(row.prompt_ids), *target, *[IGNORED] * fill])
    position_T = torch.arange(width)
    length_B1 = torch.tensor(lengths)[:, None]
    prompt_B1 = torch.tensor([len(e.prompt_ids) for e in encoded])[:, None]
    return Batch(
        input_ids_BT=torch.tensor(ids).to(device),
        attention_mask_BT=(position_T < length_B1).long().to(device),
        prefix_mask_BT=(position_T < prompt_B1).to(device),
        labels_BT=torch.tensor(labels).to(device),
        ids=tuple(e.id for e in encoded),
        clusters=tuple(e.cluster for e in encoded),
    )


def collate(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    device: torch.device | str = "cpu",
    max_len: int | None = None,
) -> Batch:
    """`encode` and `pad` in one call."""
    encoded = encode(examples, tokenizer, max_len=max_len)
    return pad(encoded, pad_id=tokenizer.pad_token_id, device=device)


def pad_id_of(tokenizer: Any) -> int:
    """The id that fills rows up: the pad token, else eos (masked either way)."""
    pad_id: int | None = tokenizer.pad_token_id
    if pad_id is None:
        pad_id = tokenizer.eos_token_id
    if pad_id is None:
        raise InvalidInputError("The tokenizer has neither a pad nor an eos token.")
    return pad_id


def answer_loss(logits_BTV: Tensor, batch: Batch, *, prefix_weight: float = 0.0) -> Tensor:
    """Weighted mean cross-entropy of the next token: targets weigh 1, prompt tokens less.

    With `prefix_weight` 0 prompts are not scored and padding never is.
    """
    logits_NV, labels_N, weight_N = _scored(logits_BTV, batch, prefix_weight)
    nll_N = nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")
    return (nll_N * weight_N).sum() / weight_N.sum()


def _scored(h_BTV: Tensor, batch: Batch, prefix_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that predict a scored token, those tokens, and their weights."""
    is_target_BT = batch.labels_BT[:, 1:] != IGNORED
    scored_BT = is_target_BT
    if prefix_weight > 0:
        scored_BT = batch.attention_mask_BT[:, 1:].bool()
    labels_N = batch.input_ids_BT[:, 1:][scored_BT]
    weight_N = torch.where(is_target_BT[scored_BT], 1.0, prefix_weight)
    return h_BTV[:, :-1][scored_BT], labels_N, weight_N
