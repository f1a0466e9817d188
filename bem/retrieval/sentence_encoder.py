"""A text encoder by the sentence-transformers library, where it is installed.

The library is optional and no part of the tests' environment. A saved index keeps the vector of a
fixed probe text: another model, or another version of one, is refused at loading.

Legend: N texts, D coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import numpy as np

from bem.errors import InvalidInputError
from bem.retrieval.interfaces import FloatArray, TextEncoder, unit_rows

LIBRARY = "sentence_transformers"
_PROBE = "A short sentence that tells one encoder from another."


class SentenceEncoder(TextEncoder):
    """Texts to unit vectors by a sentence-transformers model, on the CPU unless told otherwise."""

    kind: ClassVar[str] = "sentence_transformers"

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        """`model`: a local folder or the name of a model that the library can fetch."""
        if find_spec(LIBRARY) is None:
            raise InvalidInputError(
                "sentence-transformers is not installed: `pip install sentence-transformers`, or "
                "use BaseEncoder (the base's own hidden states) or HashedEncoder (no model)."
            )
        self.ref = model
        self._model = import_module(LIBRARY).SentenceTransformer(model, device=device)
        self._probe_D = self.encode([_PROBE])[0]
        self.dim = len(self._probe_D)

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved index must agree with."""
        return {"model": self.ref}

    def tensors(self) -> dict[str, FloatArray]:
        """The vector of the probe text."""
        return {"probe_D": self._probe_D}

    def encode(self, texts: Sequence[str], *, titles: int = 1) -> FloatArray:
        """Unit vectors (N, D); the model reads word order by itself, so `titles` says nothing."""
        made = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return unit_rows(np.asarray(made, dtype=np.float32))

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, FloatArray], source: Any
    ) -> Self:
        encoder = cls(settings["model"])
        probe_D = tensors["probe_D"]
        if probe_D.shape != (encoder.dim,) or float(probe_D @ encoder._probe_D) < 1 - 1e-3:
            raise InvalidInputError(
                f"Encoder '{encoder.ref}' no longer gives the vectors that this index was built on."
            )
        return encoder
