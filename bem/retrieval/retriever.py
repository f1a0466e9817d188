"""A retriever: queries to texts and side signals, over an index that can be swapped for a test.

Whoever claims that a model uses what was retrieved must show that it follows the index: `swapped`
puts another index behind the same queries. It knows no adapter.

Legend: Q queries, K hits a query, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidInputError
from bem.retrieval.features import retrieval_features
from bem.retrieval.index import Hits, MicroIndex


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Retrieved:
    """What came back for a batch of queries."""

    hits: Hits
    texts: tuple[tuple[str, ...], ...]
    """By query, best first."""
    side_QF: Tensor
    """`features.FEATURES` of each query, for `RoutingContext(side_BF=...)`."""


class Retriever:
    """The `k` best texts of an index for each query."""

    def __init__(self, index: MicroIndex, k: int) -> None:
        self._check(index, k)
        self.index = index
        self.k = k

    def retrieve(self, queries: Sequence[str], *, titles: int = 1) -> Retrieved:
        """Texts and side signals of each query."""
        queries_QD = self.index.encoder.encode(queries, titles=titles)
        hits = self.index.search_vectors(queries_QD, self.k)
        side_QF = retrieval_features(queries_QD, self.index.vectors[hits.ids_QK])
        return Retrieved(
            hits=hits,
            texts=tuple(tuple(self.index.texts[i] for i in row) for row in hits.ids_QK),
            side_QF=torch.from_numpy(side_QF),
        )

    @contextmanager
    def swapped(self, other: MicroIndex) -> Iterator[None]:
        """Inside, the same queries meet another index, encoded in the same way."""
        self._check(other, self.k)
        mine, theirs = self.index.encoder, other.encoder
        if (mine.kind, mine.settings) != (theirs.kind, theirs.settings):
            raise InvalidInputError(
                "The other index is encoded in another way: scores would differ for that alone. "
                f"Here: {mine.kind} {mine.settings}, there: {theirs.kind} {theirs.settings}."
            )
        kept, self.index = self.index, other
        try:
            yield
        finally:
            self.index = kept

    @staticmethod
    def _check(index: MicroIndex, k: int) -> None:
        if not 1 <= k <= len(index):
            raise InvalidInputError(f"Retriever: k must be in 1..{len(index)}, got {k}.")
