"""Models out of a registry and into another: plain folders that verify by themselves.

    DIR/manifest.json, DIR/model/     byte for byte what is registered; `import` takes it
    DIR/base/                         with `with_base`: the base model's own files
    DIR/peft/<adapter>/               with `peft`: what `peft.PeftModel.from_pretrained` loads

Bytes and paths; the base and PEFT's form need models and are made in `fleet.registry.forms`.
"""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import StorageError, UsageError
from fleet.registry.folders import problems_of, read_manifest, staged
from fleet.registry.reader import RegistryReader
from fleet.registry.records import MODEL, Alias, ModelRow
from fleet.registry.writer import Registry, Target

PROMOTE = "PROMOTE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    left_out: tuple[str, ...] = ()
    """What has no such form, with the reason."""


def export_model(
    reader: RegistryReader, row: ModelRow, target: Path, *, with_base: bool, peft: bool
) -> Exported:
    """Copies a model to a folder that does not exist yet; it appears whole or not at all.

    Raises:
        UsageError: `target` is there already.
        StorageError: the model does not verify, or the disk refused.
    """
    if target.exists():
        raise UsageError(f"{target} exists; an export goes to a new folder.")
    problems = reader.problems(row)
    if problems:
        raise StorageError(f"{row.id} does not verify: {problems[0]}")
    manifest = reader.manifest(row)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    left_out: list[str] = []
    try:
        shutil.copytree(reader.folder(row), beside)
        if with_base or peft:
            from fleet.registry import forms

            if with_base:
                forms.copy_base(manifest, beside / forms.BASE)
            if peft:
                left_out = forms.write_peft(manifest, beside / MODEL, beside / forms.PEFT)
        beside.rename(target)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Exported(folder=target, left_out=tuple(left_out))


def import_model(
    registry: Registry, source: Path, *, target: Target, forced: str | None, actor: str
) -> tuple[str, Alias | None]:
    """Registers an exported folder, its lineage as it stands there.

    Args:
        forced: reason for importing a model whose lineage holds no PROMOTE verdict.

    Raises:
        StorageError: the folder does not verify.
        UsageError: it was never promoted by a verdict and no reason is given.
    """
    problems = problems_of(source)
    if problems:
        raise StorageError(f"{source} was not imported: {problems[0]}")
    manifest = read_manifest(source)
    if manifest.lineage.verdict != PROMOTE and forced is None:
        raise UsageError(
            f"{manifest.id} was registered over verdict {manifest.lineage.verdict}"
            f" ({manifest.lineage.forced}); importing it needs --force --reason."
        )
    with staged(registry.paths) as folder:
        try:
            shutil.copytree(source / MODEL, folder / MODEL, dirs_exist_ok=True)
        except OSError as error:
            raise StorageError(f"{source}: cannot be copied: {error}") from None
        said = actor if forced is None else f"{actor}, forced: {forced}"
        return registry.register(folder, manifest, target=target, actor=said)
