"""The micro-index: texts, their vectors and a flat FAISS index over them.

Exact inner-product search (a few thousand texts need no approximation). It knows its encoder and
nothing about what the texts say. On disk: `index.faiss`, `texts.json`, and `manifest.json` with
their sha256, written last; a folder that does not verify is not loaded.

Legend: Q queries, K hits a query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from bem.errors import InvalidInputError
from bem.retrieval.encoder import FloatArray, HashedEncoder

_FILES = ("index.faiss", "texts.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """What a search found, best first."""

    ids_QK: npt.NDArray[np.int64]
    scores_QK: FloatArray


class MicroIndex:
    """Texts that can be searched. Build it from texts or load it from a folder."""

    def __init__(self, texts: Sequence[str], encoder: HashedEncoder, index: Any = None) -> None:
        if not texts:
            raise InvalidInputError("MicroIndex: no texts were given.")
        self.texts = tuple(texts)
        self.encoder = encoder
        self._index = index
        if index is None:
            self._index = faiss.IndexFlatIP(encoder.dim)
            self._index.add(encoder.encode(self.texts))

    def __len__(self) -> int:
        return len(self.texts)

    def search(self, queries: Sequence[str], k: int, *, titles: int = 1) -> Hits:
        """The k best texts of each query; equal scores in order of id.

        FAISS breaks ties as its heap happens to; sorting by (-score, id) makes results the same
        on every machine as far as the scores are.
        """
        if not 1 <= k <= len(self.texts):
            raise InvalidInputError(f"MicroIndex: k must be in 1..{len(self.texts)}, got {k}.")
        scores_QK, ids_QK = self._index.search(self.encoder.encode(queries, titles=titles), k)
        order_QK = np.lexsort((ids_QK, -scores_QK), axis=1)
        return Hits(
            ids_QK=np.take_along_axis(ids_QK, order_QK, axis=1),
            scores_QK=np.take_along_axis(scores_QK, order_QK, axis=1),
        )

    def save(self, folder: Path) -> None:
        """Writes the index; the manifest comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self._index, str(folder / _FILES[0]))
        (folder / _FILES[1]).write_text(json.dumps(self.texts), encoding="utf-8")
        manifest = {
            "encoder": self.encoder.settings,
            "sha256": {name: _sha256(folder / name) for name in _FILES},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> MicroIndex:
        """Reads an index that `save` wrote.

        Raises:
            InvalidInputError: names the file that is missing or does not verify.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            for name in _FILES:
                if _sha256(folder / name) != manifest["sha256"][name]:
                    raise InvalidInputError(f"{folder / name}: does not match its manifest.")
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise InvalidInputError(f"{folder}: not a saved index: {error}") from error
        settings = manifest["encoder"]
        encoder = HashedEncoder(
            int(settings["dim"]),
            title_weight=settings["title_weight"],
            gram_weight=settings["gram_weight"],
        )
        texts = json.loads((folder / _FILES[1]).read_text(encoding="utf-8"))
        return cls(texts, encoder, faiss.read_index(str(folder / _FILES[0])))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
