"""Named random streams: one seed and a path of keys give one independent generator.

Streams are keyed by words, so adding a draw in one place never shifts the draws of another.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, *keys: str | int) -> int:
    """63-bit seed of the stream named by `keys` under `seed` (sha256 of the path)."""
    text = "/".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *keys: str | int) -> np.random.Generator:
    """NumPy generator of the named stream."""
    return np.random.default_rng(stream_seed(seed, *keys))


def torch_generator(seed: int, *keys: str | int) -> torch.Generator:
    """CPU torch generator of the named stream."""
    return torch.Generator().manual_seed(stream_seed(seed, *keys))
