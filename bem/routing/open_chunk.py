"""The chunk that is not whole yet, over decode steps of one token: they are put aside as they come
and summed together, when the sum is asked for or a row's chunk may be whole.

It is what `ChunkController` carries from one forward to the next ("sum", "count", "code"); to who
reads it, it never changes. It knows no controller.

Legend: B rows, D hidden size, N code size, M tokens put aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

MOST_ASIDE = 32
"""So many hidden states of a row are held at most."""


class OpenChunk(Mapping[str, Tensor]):
    """Sum (B, D) of normed features and count (B,) of real tokens, and the code (B, N) in force."""

    def __init__(self, state: Mapping[str, Tensor], *, size: int) -> None:
        """`size`: tokens of a whole chunk. It looks at the counts."""
        self._sum_BD, self._count_B, self._code_BN = state["sum"], state["count"], state["code"]
        self._room = size - int(self._count_B.max())
        self._aside: tuple[tuple[Tensor, Tensor], ...] = ()
        self.codes_B1N = self._code_BN[:, None]
        self.chunk_B1 = torch.zeros_like(self._count_B)[:, None]
        """Which of `codes_B1N` acts at the one position: the first."""

    def with_token(self, h_B1D: Tensor, valid_B1: Tensor) -> Self:
        """One token more; copied, since others may write over what they gave."""
        more = object.__new__(type(self))
        more.__dict__.update(self.__dict__)
        more._aside = (*self._aside, (h_B1D.clone(), valid_B1.clone()))
        return more

    def may_be_whole(self) -> bool:
        """Whether a row's chunk may be whole by now, if all tokens put aside are real."""
        return len(self._aside) >= min(self._room, MOST_ASIDE)

    def __getitem__(self, key: str) -> Tensor:
        if key == "code":
            return self._code_BN
        self._add_up()
        return {"sum": self._sum_BD, "count": self._count_B}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("sum", "count", "code"))

    def __len__(self) -> int:
        return 3

    def _add_up(self) -> None:
        if not self._aside:
            return
        h_BMD = torch.cat([h_B1D for h_B1D, _ in self._aside], dim=1)
        valid_BM = torch.cat([valid_B1 for _, valid_B1 in self._aside], dim=1)
        with torch.autocast(h_BMD.device.type, enabled=False):
            f_BMD = normed(h_BMD, self._sum_BD.dtype)
            weight_B1M = valid_BM[:, None].to(f_BMD.dtype)
            self._sum_BD = torch.baddbmm(self._sum_BD[:, None], weight_B1M, f_BMD).squeeze(1)
        self._count_B = self._count_B + valid_BM.sum(1)
        self._room -= len(self._aside)
        self._aside = ()


def normed(h_BTD: Tensor, dtype: torch.dtype) -> Tensor:
    """Features as a chunk sums them."""
    return torch.nn.functional.layer_norm(h_BTD.to(dtype), h_BTD.shape[-1:])
