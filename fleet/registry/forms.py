"""Forms of a registered model for other programs: its base beside it, its adapters as PEFT's own.

Loads models, so it is imported late. Knows no database.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import torch

from bem.base import BaseModel as FrozenBase
from bem.base import load_base
from bem.errors import InvalidInputError
from bem.model import BEMModel
from bem.peft_bridge import BemConfig
from fleet.errors import StorageError, UsageError
from fleet.registry.records import Manifest
from missions.base_model import bundled_path

BASE = "base"
PEFT = "peft"


def base_path(reference: str) -> str:
    """Folder or hub id of a base as a manifest names it."""
    return str(bundled_path()) if reference == "bundled" else reference


def load_base_of(manifest: Manifest) -> FrozenBase:
    """The base of a model, after its digest is compared.

    Raises:
        UsageError: the model has no base.
        StorageError: the base here is another one.
    """
    if manifest.base_model is None:
        raise UsageError(f"{manifest.id} has no base model: it is complete by itself.")
    base = load_base(base_path(manifest.base_model.ref))
    if base.digest != manifest.base_model.digest:
        raise StorageError(
            f"Base '{manifest.base_model.ref}' has digest {base.digest[:12]}; {manifest.id} was "
            f"trained over {manifest.base_model.digest[:12]}."
        )
    return base


def copy_base(manifest: Manifest, folder: Path) -> None:
    """The base's own files, for a machine that has none."""
    base = load_base_of(manifest)
    if base.folder is None:
        raise StorageError(f"Base '{base.ref}' has no folder to copy.")
    shutil.copytree(base.folder, folder)


def write_peft(manifest: Manifest, model_folder: Path, folder: Path) -> list[str]:
    """Each adapter as a folder that `peft.PeftModel.from_pretrained` loads; returns what cannot.

    Whoever loads one imports `bem.peft_bridge` first, which tells PEFT of the method.
    """
    base = load_base_of(manifest)
    with BEMModel.from_pretrained(model_folder, base=base) as model:
        kept = [(name, model.host[name]) for name in model.config.adapters]
        weights = {name: dict(adapter.state_dict()) for name, adapter in kept}
    left_out = []
    base_name = str(base.folder or base.ref)
    for name, adapter in kept:
        fields = adapter.config.model_dump(mode="json")
        config = BemConfig(kind=adapter.kind, fields=fields, task_type="CAUSAL_LM")
        config.base_model_name_or_path = base_name
        try:
            _write_one(base.model, config, weights[name], folder / name)
        except InvalidInputError as error:  # made of other adapters: it cannot stand alone
            left_out.append(f"{name}: {' '.join(str(error).split())}")
    return left_out


def _write_one(
    module: Any, config: BemConfig, tensors: dict[str, torch.Tensor], folder: Path
) -> None:
    model = peft.get_peft_model(module, config)
    try:
        model.base_model.host["default"].load_state_dict(tensors)
        model.save_pretrained(folder)
    finally:
        model.base_model.unload()
        del module.peft_config  # PEFT leaves it behind; the next adapter would be told of two
