"""The micro-index: texts, their vectors and a FAISS index over them.

Exact inner-product search where there are few texts, HNSW or inverted lists where there are many
(`kinds` has the rule). It knows its encoder and nothing about what the texts say. On disk:
`index.faiss`, `texts.json`, `encoder.safetensors` where the encoder has learned something, and
`manifest.json` with their sha256, written last; a folder that does not verify is not loaded.

Legend: Q queries, K hits a query, D coordinates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from bem.errors import InvalidInputError
from bem.retrieval.base_encoder import BaseEncoder
from bem.retrieval.encoder import HashedEncoder
from bem.retrieval.interfaces import FloatArray, TextEncoder
from bem.retrieval.kinds import Kind, build, check_kind, search, stored_vectors
from bem.retrieval.sentence_encoder import SentenceEncoder

MANIFEST = "manifest.json"
_INDEX, _TEXTS, _ENCODER = "index.faiss", "texts.json", "encoder.safetensors"
ENCODERS: Mapping[str, type[TextEncoder]] = {
    encoder.kind: encoder for encoder in (HashedEncoder, BaseEncoder, SentenceEncoder)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """What a search found, best first."""

    ids_QK: npt.NDArray[np.int64]
    scores_QK: FloatArray


class MicroIndex:
    """Texts that can be searched. Build it from texts or load it from a folder."""

    def __init__(
        self, texts: Sequence[str], encoder: TextEncoder, index: Any = None, *, kind: str = "auto"
    ) -> None:
        """`index` is a built FAISS index of these texts; `kind`: auto, flat, hnsw or ivf."""
        if not texts:
            raise InvalidInputError("MicroIndex: no texts were given.")
        self.texts = tuple(texts)
        self.encoder = encoder
        self.kind: Kind = check_kind(kind, len(self.texts))
        self._index = index
        if index is None:
            self._index = build(self.kind, encoder.encode(self.texts))

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def vectors(self) -> FloatArray:
        """The texts' unit vectors, (N, D)."""
        return stored_vectors(self._index, self.kind)

    def search(self, queries: Sequence[str], k: int, *, titles: int = 1) -> Hits:
        """The k best texts of each query; equal scores in order of id."""
        return self.search_vectors(self.encoder.encode(queries, titles=titles), k)

    def search_vectors(self, queries_QD: FloatArray, k: int) -> Hits:
        """`search` for queries that are encoded already.

        FAISS breaks ties as its heap happens to; sorting by (-score, id) makes results the same
        on every machine as far as the scores are.
        """
        if not 1 <= k <= len(self.texts):
            raise InvalidInputError(f"MicroIndex: k must be in 1..{len(self.texts)}, got {k}.")
        scores_QK, ids_QK = search(self._index, queries_QD, k)
        order_QK = np.lexsort((ids_QK, -scores_QK), axis=1)
        return Hits(
            ids_QK=np.take_along_axis(ids_QK, order_QK, axis=1),
            scores_QK=np.take_along_axis(scores_QK, order_QK, axis=1),
        )

    def save(self, folder: Path) -> None:
        """Writes the index; the manifest comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        names = [_INDEX, _TEXTS]
        faiss.write_index(self._index, str(folder / _INDEX))
        (folder / _TEXTS).write_text(json.dumps(self.texts), encoding="utf-8")
        if tensors := self.encoder.tensors():
            names.append(_ENCODER)
            (folder / _ENCODER).write_bytes(save_arrays(tensors))
        manifest = {
            "kind": self.kind,
            "encoder": {"kind": self.encoder.kind, **self.encoder.settings},
            "sha256": {name: file_digest(folder / name) for name in names},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, source: Any = None) -> MicroIndex:
        """Reads an index that `save` wrote.

        Args:
            folder: where it lies.
            source: the base or the AdapterHost, where the encoder reads its hidden states.

        Raises:
            InvalidInputError: names the file that is missing or does not verify.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            digests: dict[str, str] = manifest["sha256"]
            for name in dict.fromkeys((_INDEX, _TEXTS, *digests)):
                if file_digest(folder / name) != digests[name]:
                    raise InvalidInputError(f"{folder / name}: does not match its manifest.")
            settings = dict(manifest["encoder"])
            name = settings.pop("kind", HashedEncoder.kind)
            if name not in ENCODERS:
                raise InvalidInputError(
                    f"{folder}: unknown encoder '{name}'. Known: {', '.join(ENCODERS)}."
                )
            path = folder / _ENCODER
            tensors = load_arrays(path.read_bytes()) if _ENCODER in digests else {}
            encoder = ENCODERS[name].restore(settings, tensors, source)
        except (OSError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InvalidInputError(f"{folder}: not a saved index: {error}") from error
        texts = json.loads((folder / _TEXTS).read_text(encoding="utf-8"))
        index = faiss.read_index(str(folder / _INDEX))
        if (index.ntotal, index.d) != (len(texts), encoder.dim):
            raise InvalidInputError(
                f"{folder}: {index.ntotal} vectors of size {index.d} for {len(texts)} texts and "
                f"an encoder of size {encoder.dim}."
            )
        return cls(texts, encoder, index, kind=manifest.get("kind", "flat"))


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
