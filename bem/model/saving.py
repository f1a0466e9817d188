"""A saved `BEMModel`: a folder of JSON and safetensors, whole once its manifest is there.

    config.json                          the BEMConfig
    adapters/<name>/adapter.safetensors  one adapter, as `bem.checkpoint` writes it, with its own
    adapters/<name>/manifest.json        manifest; `load_adapter` takes such a folder alone
    adapters/<name>/labels.safetensors   the embeddings of its hints and modes, where it has any
    bem_manifest.json                    sha256 and size of all of these, digest of the base

Nothing here is ever unpickled. It builds no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from bem.checkpoint import MANIFEST, WEIGHTS, Manifest, save_adapter, write_durably
from bem.errors import CheckpointError
from bem.injection import AdapterHost
from bem.model.config import BEMConfig
from bem.model.hints import HintTable

CONFIG = "config.json"
LABELS = "labels.safetensors"
MODEL_MANIFEST = "bem_manifest.json"


class FileFacts(BaseModel):
    """One file of the folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size_bytes: int


class ModelManifest(BaseModel):
    """What the folder holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    """Version of this layout."""
    base_digest: str
    """`BaseModel.digest` of the base that the adapters were trained on."""
    files: dict[str, FileFacts]
    """By path within the folder."""


class Labels(BaseModel):
    """In the `extra` of an adapter's manifest: what its embeddings belong to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hints: tuple[str, ...]
    modes: tuple[str, ...]
    embedding_size: int
    sha256: str
    """Of labels.safetensors."""


def save_folder(
    folder: Path, config: BEMConfig, host: AdapterHost, tables: Mapping[str, HintTable]
) -> None:
    """Write everything; the manifest last."""
    if (folder / MODEL_MANIFEST).exists():
        raise CheckpointError(f"'{folder}' already holds a BEM model; saved models are immutable.")
    for name in config.adapters:
        _save_one(folder / "adapters" / name, host, name, tables.get(name))
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / CONFIG, (config.model_dump_json(indent=2) + "\n").encode())
    files = {path: _facts(folder / path) for path in _paths(folder, config)}
    manifest = ModelManifest(base_digest=host.base.digest, files=files)
    text = manifest.model_dump_json(indent=2) + "\n"
    write_durably(folder / MODEL_MANIFEST, text.encode())


def read_folder(folder: Path) -> tuple[BEMConfig, ModelManifest]:
    """Config and manifest, after every file was verified.

    Raises:
        CheckpointError: no manifest, a missing or changed file, or a config that does not parse;
            it names the file.
    """
    path = folder / MODEL_MANIFEST
    try:
        manifest = ModelManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"'{folder}' holds no BEM model: no {MODEL_MANIFEST}.") from error
    except ValidationError as error:
        raise CheckpointError(f"'{path}': {_first(error)}") from error
    if CONFIG not in manifest.files:
        raise CheckpointError(f"'{path}' names no {CONFIG}.")
    for name, facts in manifest.files.items():
        _verify(folder / name, facts)
    try:
        config = BEMConfig.model_validate_json((folder / CONFIG).read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"'{folder / CONFIG}': {_first(error)}") from error
    missing = [p for p in _paths(folder, config) if p not in manifest.files]
    if missing:
        raise CheckpointError(f"'{path}' does not vouch for '{missing[0]}'.")
    return config, manifest


def read_labels(folder: Path, manifest: Manifest) -> HintTable | None:
    """The embeddings beside an adapter, verified; None where it has none."""
    if "labels" not in manifest.extra:
        return None
    path = folder / LABELS
    try:
        labels = Labels.model_validate(manifest.extra["labels"])
    except ValidationError as error:
        raise CheckpointError(f"'{folder / MANIFEST}', labels: {_first(error)}") from error
    if not path.is_file():
        raise CheckpointError(f"'{folder}' names hints or modes but has no {LABELS}.")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != labels.sha256:
        raise CheckpointError(
            f"'{path}' does not verify: sha256 {digest[:12]}, the manifest says "
            f"{labels.sha256[:12]}."
        )
    table = HintTable(
        labels.hints, labels.modes, labels.embedding_size, generator=torch.Generator()
    )
    try:
        table.load_state_dict(load_tensors(data))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"'{path}' does not fit its names: {reason}") from error
    return table


def _save_one(folder: Path, host: AdapterHost, name: str, table: HintTable | None) -> None:
    extra: dict[str, JsonValue] = {}
    if table is not None:
        tensors = {k: t.detach().cpu().contiguous() for k, t in table.state_dict().items()}
        data = save_tensors(tensors)
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / LABELS, data)
        labels = Labels(
            hints=table.hints,
            modes=table.modes,
            embedding_size=table.embedding_size,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        extra["labels"] = labels.model_dump(mode="json")
    save_adapter(host, name, folder, extra=extra)


def _paths(folder: Path, config: BEMConfig) -> list[str]:
    paths = [CONFIG]
    for name in config.adapters:
        paths += [f"adapters/{name}/{file}" for file in (WEIGHTS, MANIFEST)]
        if (folder / "adapters" / name / LABELS).exists():
            paths.append(f"adapters/{name}/{LABELS}")
    return paths


def _facts(path: Path) -> FileFacts:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileFacts(sha256=digest, size_bytes=path.stat().st_size)


def _verify(path: Path, facts: FileFacts) -> None:
    if not path.is_file():
        raise CheckpointError(f"'{path}' is in the manifest but not there.")
    found = _facts(path)
    if found != facts:
        raise CheckpointError(
            f"'{path}' does not verify: sha256 {found.sha256[:12]}, {found.size_bytes} bytes; the "
            f"manifest says {facts.sha256[:12]}, {facts.size_bytes}."
        )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"field '{'.'.join(str(part) for part in first['loc'])}': {first['msg']}."
