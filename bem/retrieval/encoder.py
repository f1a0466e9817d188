"""A text encoder without weights: hashed words and letter n-grams, signed and normalised.

Feature hashing (Weinberger et al., arXiv 0902.2206): every feature of a text adds +-weight to one
of D coordinates, both chosen by a hash, so that inner products estimate the overlap of features.
It learns nothing and reads no model; it is the cheap encoder of the micro-index. The first word of
a text is its title and counts more, in queries and in records alike.

Legend: N texts, D coordinates.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np

from bem.errors import InvalidInputError
from bem.retrieval.interfaces import FloatArray, TextEncoder, unit_rows

_WORD = re.compile(r"[a-z0-9]+")


@lru_cache(maxsize=1 << 17)
def _slot(feature: str, dim: int) -> tuple[int, float]:
    """Coordinate and sign of a feature."""
    number = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
    return (number >> 1) % dim, 1.0 if number & 1 else -1.0


class HashedEncoder(TextEncoder):
    """Texts to unit vectors of `dim` coordinates.

    Args:
        dim: coordinates; collisions get rarer as it grows.
        title_weight: weight of the first word's features.
        gram_weight: weight of each letter trigram beside its word (0: whole words only).
    """

    kind: ClassVar[str] = "hashed"

    def __init__(
        self, dim: int = 256, *, title_weight: float = 2.0, gram_weight: float = 0.25
    ) -> None:
        if dim < 8:
            raise InvalidInputError(f"HashedEncoder: dim must be >= 8, got {dim}.")
        self.dim = dim
        self.title_weight = title_weight
        self.gram_weight = gram_weight

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved index must agree with."""
        return {
            "dim": self.dim,
            "title_weight": self.title_weight,
            "gram_weight": self.gram_weight,
        }

    def encode(self, texts: Sequence[str], *, titles: int = 1) -> FloatArray:
        """Unit vectors (N, D). The first `titles` words of each text carry the title's weight."""
        x_ND = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for position, word in enumerate(_WORD.findall(text.lower())):
                weight = self.title_weight if position < titles else 1.0
                for feature, share in self._features(word):
                    slot, sign = _slot(feature, self.dim)
                    x_ND[row, slot] += sign * weight * share
        return unit_rows(x_ND)

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, FloatArray], source: Any
    ) -> Self:
        return cls(
            int(settings["dim"]),
            title_weight=settings["title_weight"],
            gram_weight=settings["gram_weight"],
        )

    def _features(self, word: str) -> Iterator[tuple[str, float]]:
        yield f"w:{word}", 1.0
        if self.gram_weight > 0:
            framed = f"^{word}$"
            for start in range(len(framed) - 2):
                yield f"g:{framed[start : start + 3]}", self.gram_weight
