"""Durable files: written beside, fsynced, renamed, the folder fsynced; and which disks are fit.

Knows bytes and paths only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import psutil

from fleet.errors import StorageError

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    }
)
"""SQLite's locks and write-ahead log are not safe there."""


def write_durably(path: Path, content: bytes) -> None:
    """Makes `path` hold `content`, whole or not at all, even through a power cut.

    Raises:
        StorageError: the disk refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None


def store_by_content(folder: Path, content: bytes, suffix: str) -> Path:
    """Stores bytes under their sha256; the same bytes are stored once."""
    path = folder / f"{hashlib.sha256(content).hexdigest()}{suffix}"
    if not path.is_file():
        write_durably(path, content)
    return path


def file_system_of(path: Path) -> tuple[str, str]:
    """(mount point, type) of the file system that holds `path`; unknown gives ('/', '')."""
    target = path.resolve()
    best = ("/", "")
    length = -1
    for part in psutil.disk_partitions(all=True):
        mount = Path(part.mountpoint)
        if (target == mount or mount in target.parents) and len(part.mountpoint) >= length:
            best = (part.mountpoint, part.fstype)
            length = len(part.mountpoint)
    return best


def refuse_network_file_system(
    path: Path, *, what: str = "ledger", option: str = "--runs-dir"
) -> None:
    """Raises StorageError where `what` would lie on a network file system."""
    mount, kind = file_system_of(path)
    if kind.lower() in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"{path} lies on a network file system ({kind} at {mount}); the {what} needs a local "
            f"disk. Give another folder with {option}."
        )
