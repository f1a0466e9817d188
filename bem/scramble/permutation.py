"""Bijections over the symbol tokens of a vocabulary, one a document.

A bijection S permutes the symbol ids among themselves, group by group, and leaves every other
token alone. It acts
on token ids (x -> S x) and, undone, on next-token logits (p(.|S x) -> S^-1 p(.|S x)). Knows no
model and no data.

Shapes: B documents, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SymbolBijection:
    """One vocabulary permutation a document: `image_BV[b, v]` is S_b(v)."""

    image_BV: Tensor

    def __post_init__(self) -> None:
        if self.image_BV.dtype != torch.long or self.image_BV.ndim != 2:
            raise ValueError(
                f"image_BV must be a long tensor of shape (B, V), got {self.image_BV.dtype} "
                f"{tuple(self.image_BV.shape)}"
            )

    def apply(self, ids_BT: Tensor) -> Tensor:
        """S x: every symbol of every document replaced by its image."""
        return self.image_BV.gather(1, ids_BT)

    def undo_logits(self, logits_BTV: Tensor) -> Tensor:
        """S^-1 p: the logit of token v becomes the one that the model gave to S(v)."""
        index_BTV = self.image_BV[:, None, :].expand_as(logits_BTV)
        return logits_BTV.gather(2, index_BTV)

    def to(self, device: torch.device) -> SymbolBijection:
        return SymbolBijection(image_BV=self.image_BV.to(device))


def sample_bijections(
    groups: Sequence[Sequence[int]], *, batch: int, vocab_size: int, generator: torch.Generator
) -> SymbolBijection:
    """A uniformly drawn permutation within each group of symbols, for each of `batch` documents.

    Groups (keys and values, say) are permuted apart, so that a document keeps its grammar.

    Raises:
        ValueError: if a symbol stands twice, outside the vocabulary, or alone in its group.
    """
    every = [symbol for group in groups for symbol in group]
    if len(set(every)) != len(every):
        raise ValueError("groups hold a token twice; a bijection needs distinct symbols.")
    image_BV = torch.arange(vocab_size).repeat(batch, 1)
    for group in groups:
        if len(group) < 2 or min(group) < 0 or max(group) >= vocab_size:
            raise ValueError(
                f"A group must be >= 2 tokens in [0, {vocab_size}), got {len(group)} in "
                f"[{min(group, default=0)}, {max(group, default=0)}]."
            )
        symbols_S = torch.tensor(list(group), dtype=torch.long)
        order_BS = torch.rand(batch, len(group), generator=generator).argsort(dim=1)
        image_BV[:, symbols_S] = symbols_S[order_BS]
    return SymbolBijection(image_BV=image_BV)
