"""Files that outlive a machine: one launch's folder on any file system that pyarrow can reach.

Knows names and bytes; what is kept there is decided by `mirror` and by the workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from fleet.errors import ConfigError, DamagedError, NotFoundError, StorageError

STORAGE_VARIABLE = "BEM_FLEET_STORAGE"
"""Environment variable that `--storage` takes its default from."""
SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs")
_CHUNK = 4 << 20
_LIST = ".files.json"
"""Behind a folder's name: its files and their sha256."""


def check_uri(uri: str) -> str:
    """What is wrong with a storage URI, or an empty string."""
    if uri.startswith("/"):
        return ""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        return f"an absolute path, or a URI of {', '.join(f'{s}://' for s in SCHEMES)}"
    if parts.username or parts.password:
        return "no credentials in the URI; they come from the environment or the machine's role"
    if parts.scheme != "file" and not parts.netloc:
        return f"{parts.scheme}://bucket/folder"
    if parts.scheme == "file" and not parts.path.startswith("/"):
        return "file:///absolute/path"
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """The folder of one launch on a storage; opens its connection when it is first used.

    Plain data, so that it crosses processes; each process connects for itself.
    """

    uri: str
    """Of the storage, as the user gave it."""
    run_id: str

    @staticmethod
    def at(uri: str, run_id: str) -> Storage:
        """A checked storage.

        Raises:
            ConfigError: says what is allowed.
        """
        allowed = check_uri(uri)
        if allowed:
            raise ConfigError(f"--storage {_without_secret(uri)!r}: allowed: {allowed}.")
        return Storage(uri=uri.rstrip("/"), run_id=run_id)

    def put(self, name: str, path: Path) -> str:
        """Copies a file there; it appears under its name whole or not at all.

        Returns:
            sha256 of what was copied.
        """
        system, root = self._open()
        target = f"{root}/{name}"
        digest = hashlib.sha256()
        try:
            system.create_dir(target.rpartition("/")[0], recursive=True)
            # An object store shows a file when it is closed; a folder shows every byte.
            local = system.type_name == "local"
            beside = f"{target}.{os.getpid()}.part" if local else target
            with path.open("rb") as source, system.open_output_stream(beside) as sink:
                while block := source.read(_CHUNK):
                    digest.update(block)
                    sink.write(block)
            if local:
                os.replace(beside, target)
        except OSError as error:
            raise StorageError(f"{self.uri}: {name} cannot be written: {error}") from None
        return digest.hexdigest()

    def put_folder(self, name: str, folder: Path) -> int:
        """Copies every file below a folder; returns how many.

        Last, beside it, goes the list of their sha256: a folder that has one is whole.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        copied: dict[str, str] = {}
        for path in files:
            inside = path.relative_to(folder).as_posix()
            copied[inside] = self.put(f"{name}/{inside}", path)
        with tempfile.TemporaryDirectory(prefix="bem-storage-") as beside:
            listed = Path(beside) / "files.json"
            listed.write_text(json.dumps(copied, indent=1) + "\n", encoding="utf-8")
            self.put(f"{name}{_LIST}", listed)
        return len(files)

    def get(self, name: str, path: Path) -> str:
        """Copies a file from there.

        Returns:
            sha256 of what was copied.

        Raises:
            NotFoundError: there is none.
        """
        system, root = self._open()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        digest = hashlib.sha256()
        try:
            with system.open_input_stream(f"{root}/{name}") as source, beside.open("wb") as sink:
                while block := source.read(_CHUNK):
                    digest.update(block)
                    sink.write(block)
                sink.flush()
                os.fsync(sink.fileno())
            beside.replace(path)
        except FileNotFoundError:
            beside.unlink(missing_ok=True)
            raise NotFoundError(f"{self.uri}/{self.run_id} holds no {name}.") from None
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise StorageError(f"{self.uri}: {name} cannot be read: {error}") from None
        return digest.hexdigest()

    def get_folder(self, name: str, folder: Path) -> bool:
        """Copies what `put_folder` put; whether it is there as a whole.

        Raises:
            DamagedError: a file that is not the one that was put, or is gone.
        """
        with tempfile.TemporaryDirectory(prefix="bem-storage-") as beside:
            listed = Path(beside) / "files.json"
            try:
                self.get(f"{name}{_LIST}", listed)
            except NotFoundError:
                return False
            try:
                files = TypeAdapter(dict[str, str]).validate_json(listed.read_bytes())
            except ValidationError:
                raise DamagedError(f"{self.uri}: {name}{_LIST} is not a list of files.") from None
        folder.mkdir(parents=True, exist_ok=True)
        for inside, wanted in files.items():
            parts = PurePosixPath(inside)
            if parts.is_absolute() or ".." in parts.parts:
                raise DamagedError(f"{self.uri}: {name}{_LIST} names {inside!r}, outside of it.")
            try:
                found = self.get(f"{name}/{inside}", folder / parts)
            except NotFoundError:
                raise DamagedError(f"{self.uri}: {name}/{inside} is gone.") from None
            if found != wanted:
                raise DamagedError(
                    f"{self.uri}: {name}/{inside} has sha256 {found[:12]}, its list says "
                    f"{wanted[:12]}."
                )
        return True

    def names(self, folder: str = "") -> Iterator[str]:
        """Names of the files below a folder, relative to it."""
        from pyarrow import fs

        system, root = self._open()
        base = f"{root}/{folder}".rstrip("/")
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        try:
            found = system.get_file_info(selector)
        except OSError as error:
            raise StorageError(f"{self.uri}: cannot be listed: {error}") from None
        for info in found:
            if info.is_file and not info.path.endswith(".part"):
                yield info.path[len(base) + 1 :]

    def remove(self, name: str) -> None:
        """Removes a file; one that is not there is fine."""
        system, root = self._open()
        try:
            system.delete_file(f"{root}/{name}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self.uri}: {name} cannot be removed: {error}") from None

    def _open(self) -> tuple[Any, str]:
        from pyarrow import ArrowInvalid, fs

        key = (os.getpid(), self.uri)
        if key not in _OPEN:
            try:
                _OPEN[key] = fs.FileSystem.from_uri(self.uri)
            except (ArrowInvalid, OSError, NotImplementedError) as error:
                raise StorageError(f"{self.uri}: cannot be opened: {error}") from None
        system, root = _OPEN[key]
        return system, f"{root}/{self.run_id}"


_OPEN: dict[tuple[int, str], tuple[Any, str]] = {}


def _without_secret(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", uri)
