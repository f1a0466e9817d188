"""An adapter and the index that it reads, in one folder that verifies as a whole.

The adapter's manifest holds the hash of the index's manifest, which holds those of its files: one
flipped bit in any file, and the folder is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from bem.checkpoint import Manifest, load_adapter, read_manifest, save_adapter
from bem.errors import CheckpointError
from bem.injection import AdapterHost
from bem.interfaces import Adapter
from bem.retrieval.index import MANIFEST, MicroIndex, file_digest

FOLDER = "retrieval"
_KEY = "retrieval_sha256"


def save_with_index(
    host: AdapterHost,
    name: str,
    folder: Path,
    index: MicroIndex,
    *,
    parents: Sequence[str] = (),
    extra: Mapping[str, JsonValue] | None = None,
) -> Manifest:
    """Write adapter `name` and its index to `folder`; the adapter's manifest comes last."""
    if (folder / FOLDER).exists():
        raise CheckpointError(f"'{folder}' already holds an index; checkpoints are immutable.")
    index.save(folder / FOLDER)
    sealed = dict(extra or {}) | {_KEY: file_digest(folder / FOLDER / MANIFEST)}
    return save_adapter(host, name, folder, parents=parents, extra=sealed)


def load_with_index(host: AdapterHost, name: str, folder: Path) -> tuple[Adapter, MicroIndex]:
    """The adapter, put on this base as `name`, and its index; both verified before anything acts.

    Raises:
        CheckpointError: no index was saved with it, or the index is not that one.
        InvalidInputError: a file of the index does not verify.
    """
    sealed = read_manifest(folder).extra.get(_KEY)
    path = folder / FOLDER / MANIFEST
    if sealed is None:
        raise CheckpointError(f"'{folder}' was saved without an index: use load_adapter.")
    if not path.is_file() or file_digest(path) != sealed:
        raise CheckpointError(f"'{path}' is not the manifest that was saved with the adapter.")
    index = MicroIndex.load(folder / FOLDER, source=host)
    return load_adapter(host, name, folder), index
