"""Hints and modes: names whose learned embeddings are the side signals of a controller.

    side = [ sum of the embeddings of the row's hints ; embedding of its mode ]

A row without hints or mode has zeros in their place. Names are closed: an unknown one is an error
that lists the known. It knows neither models nor adapters.

Legend: B rows, K names, E embedding size, F side features (2 E).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bem.errors import InvalidInputError


class HintTable(nn.Module):
    """The embeddings of one adapter's hints and modes."""

    def __init__(
        self,
        hints: Sequence[str],
        modes: Sequence[str],
        embedding_size: int,
        *,
        generator: torch.Generator,
    ) -> None:
        """Embeddings start from a normal with standard deviation 1 / sqrt(E): length 1 or so."""
        super().__init__()
        self.hints = tuple(hints)
        self.modes = tuple(modes)
        self.embedding_size = embedding_size
        self.hints_KE = _start(len(self.hints), embedding_size, generator)
        self.modes_KE = _start(len(self.modes), embedding_size, generator)

    def side(self, hints: Sequence[Sequence[str]], modes: Sequence[str | None]) -> Tensor:
        """Side signals (B, F) of rows with these hints and modes; unknown names count for nothing,
        since another adapter may know them (`require_known`)."""
        hot_BK = _one_hot(hints, self.hints).to(self.hints_KE)
        mode_BK = _one_hot([() if m is None else (m,) for m in modes], self.modes).to(self.modes_KE)
        return torch.cat([hot_BK @ self.hints_KE, mode_BK @ self.modes_KE], dim=1)


def require_known(
    tables: Sequence[HintTable], hints: Sequence[Sequence[str]], modes: Sequence[str | None]
) -> None:
    """Raise InvalidInputError unless some table knows each name."""
    given_hints = {hint for row in hints for hint in row}
    given_modes = {mode for mode in modes if mode is not None}
    for what, given, known in (
        ("hint", given_hints, [h for table in tables for h in table.hints]),
        ("mode", given_modes, [m for table in tables for m in table.modes]),
    ):
        unknown = sorted(given - set(known))
        if unknown:
            listed = ", ".join(dict.fromkeys(known)) or "none (no acting adapter has learnt one)"
            raise InvalidInputError(f"Unknown {what} '{unknown[0]}'. Known: {listed}.")


def _one_hot(rows: Sequence[Sequence[str]], names: Sequence[str]) -> Tensor:
    return torch.tensor([[float(name in row) for name in names] for row in rows]).view(
        len(rows), len(names)
    )


def _start(rows: int, size: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, size, generator=generator) / math.sqrt(size))
