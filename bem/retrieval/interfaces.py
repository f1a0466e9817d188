"""What an encoder of texts is. It knows neither FAISS nor any encoder.

Legend: N texts, D coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class TextEncoder(ABC):
    """Texts to unit vectors. What is saved of it is JSON settings and named arrays."""

    kind: ClassVar[str]
    """Its name in the manifest of a saved index."""
    dim: int
    """Coordinates of a vector."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a saved index must agree with, as JSON."""

    def tensors(self) -> dict[str, FloatArray]:
        """Arrays that are saved beside the settings."""
        return {}

    @abstractmethod
    def encode(self, texts: Sequence[str], *, titles: int = 1) -> FloatArray:
        """Unit vectors (N, D). `titles`: how many words at the start of each text name what it is
        about; only an encoder that weighs words uses it."""

    @classmethod
    @abstractmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, FloatArray], source: Any
    ) -> Self:
        """The encoder that was saved. `source` is the base or host, for encoders that read one."""


def unit_rows(x_ND: FloatArray) -> FloatArray:
    """Each row over its length; a row of zeros stays one."""
    norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return np.asarray(x_ND / np.maximum(norm_N1, 1e-12), dtype=np.float32)
