from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bem import AdapterHost, BaseModel, load_base, make_config
from bem.checkpoint import MANIFEST, WEIGHTS, load_adapter, read_manifest, save_adapter
from bem.errors import CheckpointError
from bem.testing import write_tiny_base


@pytest.fixture
def saved(llama: BaseModel, tmp_path: Path) -> tuple[AdapterHost, Path]:
    host = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    host.add("a", make_config("generated", rank=2), generator=draw)
    folder = tmp_path / "a"
    save_adapter(host, "a", folder, parents=("f00",), extra={"step": 7})
    return host, folder


def test_the_manifest_says_what_the_weights_are(saved: tuple[AdapterHost, Path]) -> None:
    host, folder = saved
    manifest = read_manifest(folder)
    assert (manifest.kind, manifest.config["rank"]) == ("generated", 2)
    assert manifest.base_digest == host.base.digest
    assert manifest.parents == ("f00",)
    assert manifest.extra == {"step": 7}
    assert manifest.size_bytes == (folder / WEIGHTS).stat().st_size
    assert sum(torch.Size(s).numel() for s in manifest.shapes.values()) == host.num_trainable("a")
    assert sorted(p.name for p in folder.iterdir()) == [WEIGHTS, MANIFEST]


def test_checkpoints_are_immutable(saved: tuple[AdapterHost, Path]) -> None:
    host, folder = saved
    with pytest.raises(CheckpointError, match="already holds an adapter"):
        save_adapter(host, "a", folder)


def _flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def _truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


def _edit(**fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest.update(fields)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_byte, "does not verify: sha256"),
        (_truncate, "does not verify: sha256"),
        (lambda folder: (folder / WEIGHTS).unlink(), "a manifest but no adapter.safetensors"),
        (lambda folder: (folder / MANIFEST).unlink(), r"holds no adapter: no manifest\.json"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "Invalid JSON"),
        (_edit(colour="red"), "field 'colour'"),
        (_edit(shapes={}), "shapes differ"),
        (_edit(kind="nope"), r"Unknown adapter 'nope'\. Known: .*lora"),
        (_edit(config={"rank": 3}), "does not fit its own config"),
        (_edit(config={"ranks": 2}), "unknown field 'ranks'"),
    ],
)
def test_damage_is_found_and_named(
    saved: tuple[AdapterHost, Path], damage: Callable[[Path], None], message: str
) -> None:
    host, folder = saved
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(host, "b", folder)
    assert str(folder) in str(caught.value)
    assert "b" not in host.adapters


def test_another_base_is_refused(saved: tuple[AdapterHost, Path], tmp_path: Path) -> None:
    _, folder = saved
    other = AdapterHost(load_base(write_tiny_base(tmp_path / "other", "llama", seed=9)))
    with pytest.raises(CheckpointError, match="belongs to another base"):
        load_adapter(other, "a", folder)


def test_nothing_that_is_not_finite_is_written(
    saved: tuple[AdapterHost, Path], tmp_path: Path
) -> None:
    host, _ = saved
    with torch.no_grad():
        next(host["a"].parameters()).view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match="is not finite"):
        save_adapter(host, "a", tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
