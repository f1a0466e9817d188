"""Model folders on disk: staged beside, renamed into place with the manifest last, and verified.

    <registry>/registry.sqlite
    <registry>/models/<sha256>/manifest.json
    <registry>/models/<sha256>/model/...
    <registry>/staging/<unique>/               what is being written; swept when it is old

Bytes and paths only; it opens no database and no weights.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fleet.errors import StorageError
from fleet.ledger.files import write_durably
from fleet.registry.records import MANIFEST, MODEL, FileFacts, Manifest, model_id

MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryPaths:
    """The folder of one registry."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "registry.sqlite"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    def model(self, digest: str) -> Path:
        """Folder of one model."""
        return self.models / digest


@contextmanager
def staged(paths: RegistryPaths) -> Iterator[Path]:
    """A fresh folder on the registry's own disk; what is left of it at the end is removed."""
    folder = paths.staging / uuid.uuid4().hex
    try:
        (folder / MODEL).mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path) -> dict[str, FileFacts]:
    """sha256 and size of every file below `folder`/model.

    Raises:
        StorageError: a link, or something that is neither a folder nor a file.
    """
    found: dict[str, FileFacts] = {}
    for path in sorted((folder / MODEL).rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StorageError(f"{path}: a model holds plain files and folders only.")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = facts_of(path)
    return found


def facts_of(path: Path) -> FileFacts:
    """sha256 and size of one file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileFacts(sha256=digest, size_bytes=path.stat().st_size)


def publish(staged_folder: Path, manifest: Manifest, paths: RegistryPaths) -> str:
    """Gives a staged model its place; returns the sha256 of its manifest. Idempotent.

    Every file is flushed, the manifest written last, and one rename makes the folder visible.
    """
    target = paths.model(manifest.digest)
    if (target / MANIFEST).is_file():
        return facts_of(target / MANIFEST).sha256
    for path in [*(staged_folder / MODEL).rglob("*"), staged_folder / MODEL]:
        _flush(path)
    content = (manifest.model_dump_json(indent=1) + "\n").encode()
    write_durably(staged_folder / MANIFEST, content)
    paths.models.mkdir(parents=True, exist_ok=True)
    try:
        staged_folder.rename(target)
    except OSError as error:
        raise StorageError(f"{target}: cannot be put in place: {error}") from None
    _flush(paths.models)
    return hashlib.sha256(content).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder.

    Raises:
        StorageError: there is none, or it does not parse; names the field.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise StorageError(f"{path}: larger than {MAX_MANIFEST_BYTES >> 20} MiB.")
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{path}: field '{where}': {first['msg']}.") from None


def problems_of(folder: Path, *, manifest_sha256: str | None = None) -> list[str]:
    """What is wrong with a model folder, one line each; empty where it verifies.

    Args:
        manifest_sha256: what the registry's row says of the manifest.
    """
    try:
        manifest = read_manifest(folder)
        if manifest_sha256 is not None and facts_of(folder / MANIFEST).sha256 != manifest_sha256:
            return [f"{folder / MANIFEST}: is not the manifest that was registered."]
        found = measure(folder)
    except StorageError as error:
        return [str(error)]
    problems = []
    for name, wanted in manifest.files.items():
        here = found.get(name)
        if here is None:
            problems.append(f"{folder / name}: is in the manifest but not there.")
        elif here.size_bytes != wanted.size_bytes:
            problems.append(
                f"{folder / name}: {here.size_bytes} bytes, the manifest says {wanted.size_bytes}."
            )
        elif here != wanted:
            problems.append(
                f"{folder / name}: sha256 {here.sha256[:12]}, the manifest says "
                f"{wanted.sha256[:12]}."
            )
    extra = sorted(found.keys() - manifest.files.keys())
    problems += [f"{folder / name}: is not in the manifest." for name in extra]
    own = model_id(manifest.base_model, manifest.mission, manifest.arm, manifest.digest)
    if not problems and manifest.id != own:
        problems.append(f"{folder / MANIFEST}: id {manifest.id} does not belong to the content.")
    return problems


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
