"""Files that outlive a machine: one launch's folder on any file system that pyarrow can reach.

Knows names and bytes; what is kept there is decided by `mirror` and by the workers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleet.errors import ConfigError, NotFoundError, StorageError

STORAGE_VARIABLE = "BEM_FLEET_STORAGE"
"""Environment variable that `--storage` takes its default from."""
SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs")
_CHUNK = 4 << 20


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

    def put(self, name: str, path: Path) -> None:
        """Copies a file there; it appears under its name whole or not at all."""
        system, root = self._open()
        target = f"{root}/{name}"
        try:
            system.create_dir(target.rpartition("/")[0], recursive=True)
            # An object store shows a file when it is closed; a folder shows every byte.
            local = system.type_name == "local"
            beside = f"{target}.{os.getpid()}.part" if local else target
            with path.open("rb") as source, system.open_output_stream(beside) as sink:
                while block := source.read(_CHUNK):
                    sink.write(block)
            if local:
                os.replace(beside, target)
        except OSError as error:
            raise StorageError(f"{self.uri}: {name} cannot be written: {error}") from None

    def put_folder(self, name: str, folder: Path) -> int:
        """Copies every file below a folder, `manifest.json` last; returns how many."""
        files = sorted(
            (path for path in folder.rglob("*") if path.is_file()),
            key=lambda path: (path.name == "manifest.json", path),
        )
        for path in files:
            self.put(f"{name}/{path.relative_to(folder).as_posix()}", path)
        return len(files)

    def get(self, name: str, path: Path) -> None:
        """Copies a file from there.

        Raises:
            NotFoundError: there is none.
        """
        system, root = self._open()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with system.open_input_stream(f"{root}/{name}") as source, beside.open("wb") as sink:
                while block := source.read(_CHUNK):
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

    def get_folder(self, name: str, folder: Path) -> int:
        """Copies every file below a folder from there; returns how many."""
        names = list(self.names(name))
        for found in names:
            self.get(f"{name}/{found}", folder / found)
        return len(names)

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
