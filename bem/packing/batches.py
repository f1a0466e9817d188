"""One batch of several runs: the rows of each stand together, its loss is a mean over its own.

A row meets its own adapter only and no loss has rows of two runs, so the gradient of the sum of
losses is, adapter by adapter, that of its own loss. It knows neither optimisers nor data.

Legend: B rows, T positions, N target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bem.context import RoutingContext
from bem.data import IGNORED, Batch, Encoded, pad
from bem.errors import InvalidInputError
from bem.evaluate import target_logits
from bem.injection import AdapterHost


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Rows of several adapters, one adapter after the other."""

    batch: Batch
    names: tuple[str, ...]
    rows: tuple[str, ...]
    """The adapter of each row."""
    target_tokens: tuple[int, ...]
    """How many target tokens each adapter has."""

    def routing(self, **fields: Any) -> RoutingContext:
        """A fresh routing context that gives each row its adapter."""
        return self.batch.routing(rows=self.rows, **fields)


def pack(
    runs: Mapping[str, Sequence[Encoded]], *, pad_id: int, device: torch.device | str = "cpu"
) -> PackedBatch:
    """Batches of several runs as one, by adapter name. Equal numbers of rows are quickest."""
    empty = [name for name, encoded in runs.items() if not encoded]
    if empty or not runs:
        raise InvalidInputError(f"No rows for {', '.join(empty) or 'any run'}.")
    batch = pad([row for rows in runs.values() for row in rows], pad_id=pad_id, device=device)
    return PackedBatch(
        batch=batch,
        names=tuple(runs),
        rows=tuple(name for name, rows in runs.items() for _ in rows),
        target_tokens=tuple(sum(len(row.target_ids) for row in rows) for rows in runs.values()),
    )


def packed_losses(
    host: AdapterHost, packed: PackedBatch, routing: RoutingContext | None = None
) -> dict[str, Tensor]:
    """`bem.evaluate.target_loss` of each run on its own rows, from one forward."""
    batch = packed.batch
    logits_NV = target_logits(host, batch, packed.routing() if routing is None else routing)
    labels_BT = batch.labels_BT[:, 1:]
    labels_N = labels_BT[labels_BT != IGNORED]
    nll_N = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")
    parts = torch.split(nll_N, list(packed.target_tokens))
    return {name: part.mean() for name, part in zip(packed.names, parts, strict=True)}
