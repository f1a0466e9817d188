"""An adapter on disk: `adapter.safetensors` and, last, `manifest.json` that verifies it.

Each file is written beside its place, flushed, renamed, and the folder flushed; the manifest comes
last, so a folder with a manifest is whole. Only safetensors and JSON are ever read. It does not
know where adapters are kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, JsonValue, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bem.base import BaseModel
from bem.errors import CheckpointError, InvalidInputError
from bem.injection import AdapterHost
from bem.interfaces import Adapter
from bem.registry import adapter_class, make_config

WEIGHTS = "adapter.safetensors"
MANIFEST = "manifest.json"


class Manifest(PydanticModel):
    """What stands beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    """Version of this layout."""
    kind: str
    """The adapter's folder name in `bem/adapters`."""
    config: dict[str, JsonValue]
    """The fields of its config."""
    sha256: str
    """Of the weights file."""
    size_bytes: int
    """Of the weights file."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of every tensor."""
    base_digest: str
    """`BaseModel.digest` of the base that it was trained on."""
    versions: dict[str, str]
    """Library versions at the time of writing."""
    parents: tuple[str, ...]
    """sha256 of the adapters that it was made from."""
    extra: dict[str, JsonValue]
    """Whatever the writer adds: step, seed, metrics."""


def save_adapter(
    host: AdapterHost,
    name: str,
    folder: Path,
    *,
    parents: Sequence[str] = (),
    extra: Mapping[str, JsonValue] | None = None,
) -> Manifest:
    """Write adapter `name` to `folder`, which must not hold one yet."""
    adapter = host[name]
    if (folder / MANIFEST).exists():
        raise CheckpointError(f"'{folder}' already holds an adapter; checkpoints are immutable.")
    tensors = {key: t.detach().cpu().contiguous() for key, t in adapter.state_dict().items()}
    _require_finite(tensors, folder)
    weights = save_tensors(tensors)
    manifest = Manifest(
        kind=adapter.kind,
        config=adapter.config.model_dump(mode="json"),
        sha256=hashlib.sha256(weights).hexdigest(),
        size_bytes=len(weights),
        shapes={key: tuple(t.shape) for key, t in tensors.items()},
        base_digest=host.base.digest,
        versions={lib: version(lib) for lib in ("torch", "transformers", "safetensors")},
        parents=tuple(parents),
        extra=dict(extra or {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / WEIGHTS, weights)
    write_durably(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an adapter folder."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"'{folder}' holds no adapter: no {MANIFEST}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"'{path}': field '{where}': {first['msg']}.") from error


def verified_tensors(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The weights, after size, hash, shapes and finiteness are checked."""
    path = folder / WEIGHTS
    try:
        weights = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"'{folder}' has a manifest but no {WEIGHTS}.") from error
    digest = hashlib.sha256(weights).hexdigest()
    if digest != manifest.sha256:
        raise CheckpointError(
            f"'{path}' does not verify: sha256 {digest[:12]}, {len(weights)} bytes; the manifest "
            f"says {manifest.sha256[:12]}, {manifest.size_bytes} bytes."
        )
    tensors: dict[str, Tensor] = load_tensors(weights)
    shapes = {key: tuple(t.shape) for key, t in tensors.items()}
    if shapes != manifest.shapes:
        raise CheckpointError(f"'{path}': shapes differ from those in the manifest.")
    _require_finite(tensors, folder)
    return tensors


def load_adapter(host: AdapterHost, name: str, folder: Path) -> Adapter:
    """Put the adapter in `folder` on this base as `name`. It must be the base it was trained on."""
    return host.attach(name, built_adapter(host.base, folder))


def built_adapter(base: BaseModel, folder: Path) -> Adapter:
    """The adapter in `folder`, verified and ready for a host of this base; nothing acts yet."""
    manifest = read_manifest(folder)
    if manifest.base_digest != base.digest:
        raise CheckpointError(
            f"'{folder}' belongs to another base: digest {manifest.base_digest[:12]}, "
            f"this base '{base.ref}' has {base.digest[:12]}."
        )
    tensors = verified_tensors(folder, manifest)
    try:
        config = make_config(manifest.kind, **manifest.config)
    except InvalidInputError as error:
        raise CheckpointError(f"'{folder}': {error}") from error
    adapter = adapter_class(config.kind).build(
        config,
        base.sites(config.targets),
        base.hidden_size,
        generator=torch.Generator().manual_seed(0),  # every drawn weight is overwritten below
        experts=None,
    )
    try:
        adapter.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"'{folder}' does not fit its own config: {reason}") from error
    return adapter


def write_durably(path: Path, data: bytes) -> None:
    """Write beside, flush, rename, flush the folder."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_finite(tensors: Mapping[str, Any], folder: Path) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"'{folder}': tensor '{key}' is not finite.")
