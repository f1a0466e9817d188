"""A memory language model on disk, in the layout of `bem.checkpoint`: weights, manifest last.

Knows no task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import save as save_tensors

from bem.checkpoint import (
    MANIFEST,
    WEIGHTS,
    Manifest,
    read_manifest,
    verified_tensors,
    write_durably,
)
from bem.errors import CheckpointError
from bem.memory.config import MemoryLMConfig
from bem.memory.model import MemoryLM

KIND = "memory_lm"
_NO_BASE = "none: the whole model is in the file"


def save_model(
    model: MemoryLM, folder: Path, *, extra: Mapping[str, JsonValue] | None = None
) -> Manifest:
    """Writes a model to `folder`, which must not hold one yet."""
    if (folder / MANIFEST).exists():
        raise CheckpointError(f"'{folder}' already holds a model; checkpoints are immutable.")
    tensors = {key: t.detach().cpu().contiguous() for key, t in model.state_dict().items()}
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"'{folder}': tensor '{key}' is not finite.")
    weights = save_tensors(tensors)
    manifest = Manifest(
        kind=KIND,
        config=model.config.model_dump(mode="json"),
        sha256=hashlib.sha256(weights).hexdigest(),
        size_bytes=len(weights),
        shapes={key: tuple(t.shape) for key, t in tensors.items()},
        base_digest=_NO_BASE,
        versions={lib: version(lib) for lib in ("torch", "safetensors")},
        parents=(),
        extra=dict(extra or {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / WEIGHTS, weights)
    write_durably(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def load_model(folder: Path) -> MemoryLM:
    """The model in `folder`, in evaluation mode, after its file is verified."""
    manifest = read_manifest(folder)
    if manifest.kind != KIND:
        raise CheckpointError(f"'{folder}' holds a {manifest.kind!r}; expected {KIND!r}.")
    config = MemoryLMConfig.model_validate(manifest.config)
    # Every drawn weight is overwritten below.
    model = MemoryLM(config, generator=torch.Generator().manual_seed(0))
    model.load_state_dict(verified_tensors(folder, manifest))
    return model.eval()
