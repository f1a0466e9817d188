from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bem import BEMConfig, BEMModel, load_base
from bem.errors import CheckpointError, InvalidInputError
from bem.model.saving import LABELS, MODEL_MANIFEST
from bem.testing import write_tiny_base


@pytest.fixture
def saved(model: BEMModel, tmp_path: Path) -> Path:
    model.use("plain", "skill")
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    return folder


def say(model: BEMModel) -> list[Any]:
    """What a model does: texts, and the codes behind them."""
    given: dict[str, Any] = {"context_hints": "short", "behavioral_mode": "careful"}
    texts = model.generate(["abc", "xyz"], **given, max_new_tokens=8)
    codes = model.analyze_routing(["abc", "xyz"], **given).layers[0].codes[0].tolist()
    return [texts, codes, model.active, model.known_hints, model.known_modes]


def test_a_saved_model_is_the_same_model(model: BEMModel, saved: Path) -> None:
    expected, config = say(model), model.config
    suffixes = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    model.detach()
    with BEMModel.from_pretrained(saved) as loaded:
        assert say(loaded) == expected
        assert loaded.config == config
        assert (config.active, config.hints) == (("plain", "skill"), ("formal", "short"))
        again = saved.parent / "again"
        loaded.save_pretrained(again)
    for name in ("skill", "plain"):
        for file in (saved / "adapters" / name).glob("*.safetensors"):
            assert file.read_bytes() == (again / "adapters" / name / file.name).read_bytes()


def test_a_base_that_moved_or_is_loaded_can_be_given(
    model: BEMModel, saved: Path, llama_folder: Path, tmp_path: Path
) -> None:
    expected = say(model)
    model.detach()
    moved = tmp_path / "moved"
    moved.symlink_to(llama_folder)
    with BEMModel.from_pretrained(saved, base=moved) as loaded:
        assert say(loaded) == expected
    base = load_base(llama_folder)
    with BEMModel.from_pretrained(saved, base=base) as loaded:
        assert loaded.base is base
        assert say(loaded) == expected


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))


def _unlist(folder: Path) -> None:
    path = folder / MODEL_MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["files"]["adapters/skill/adapter.safetensors"]
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _flip(f / "adapters/skill/adapter.safetensors"), r"skill/adapter.*not verify"),
        (lambda f: _flip(f / "adapters/skill" / LABELS), r"skill/labels.*does not verify"),
        (lambda f: _flip(f / "config.json"), r"config\.json' does not verify"),
        (lambda f: (f / "adapters/plain/manifest.json").unlink(), "in the manifest but not there"),
        (lambda f: (f / MODEL_MANIFEST).unlink(), "holds no BEM model: no bem_manifest"),
        (
            lambda f: (f / MODEL_MANIFEST).write_text("{}"),
            r"bem_manifest\.json': field 'base_digest",
        ),
        (_unlist, "does not vouch for 'adapters/skill/adapter"),
    ],
)
def test_damage_is_found_and_named(
    saved: Path, damage: Callable[[Path], None], message: str, llama_folder: Path
) -> None:
    damage(saved)
    base = load_base(llama_folder)
    with pytest.raises(CheckpointError, match=message):
        BEMModel.from_pretrained(saved, base=base)
    assert not base.hosted


def test_another_base_is_refused_and_stays_free(saved: Path, tmp_path: Path) -> None:
    other = load_base(write_tiny_base(tmp_path / "other", "llama", seed=9))
    with pytest.raises(CheckpointError, match="belongs to another base"):
        BEMModel.from_pretrained(saved, base=other)
    assert not other.hosted
    with BEMModel(BEMConfig(base="unused", adapters={}), base=other) as model:
        with pytest.raises(CheckpointError, match="belongs to another base"):
            model.load_adapter("skill", saved / "adapters" / "skill")
        assert model.active == ()


def test_saved_models_are_immutable(model: BEMModel, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="already holds a BEM model"):
        model.save_pretrained(saved)


def test_adapters_come_and_go_while_the_base_stays(
    model: BEMModel, saved: Path, llama_folder: Path
) -> None:
    expected = say(model)
    model.detach()
    base = load_base(llama_folder)
    pointer = next(base.model.parameters()).data_ptr()

    def size() -> tuple[int, int, int]:
        live = sum(type(o) is torch.nn.Parameter for o in gc.get_objects())
        modules = sum(1 for _ in base.model.modules())
        return modules, sum(p.numel() for p in base.model.parameters()), live

    with BEMModel(BEMConfig(base="unused", adapters={}), base=base) as served:
        plain_text = served.generate("abc")
        gc.collect()
        before = size()
        for _ in range(2):
            for name in ("plain", "skill"):
                served.load_adapter(name, saved / "adapters" / name)
            assert say(served) == expected
            gone: list[weakref.ref[Any]]
            gone = [weakref.ref(p) for p in served.host["skill"].parameters()]
            gone += [weakref.ref(p) for p in served.tables["skill"].parameters()]
            gone.append(weakref.ref(served.host["plain"]))
            grown = size()
            assert grown[0] > before[0]
            assert grown[2] > before[2]
            served.unload_adapter("skill")
            assert served.known_hints == ()
            served.unload_adapter("plain")
            gc.collect()
            assert size() == before
            assert [ref() for ref in gone] == [None] * len(gone)
            assert served.generate("abc") == plain_text
        assert next(base.model.parameters()).data_ptr() == pointer
        with pytest.raises(InvalidInputError, match="Unknown adapter name 'skill'"):
            served.unload_adapter("skill")
        served.load_adapter("a", saved / "adapters" / "plain")
        with pytest.raises(InvalidInputError, match="is taken"):
            served.load_adapter("a", saved / "adapters" / "plain")


def test_an_adapter_of_unknown_kind_or_with_odd_labels_is_refused(
    model: BEMModel, saved: Path
) -> None:
    folder = saved / "adapters" / "skill"
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"kind": "nope"}))
    with pytest.raises(CheckpointError, match=r"Unknown adapter 'nope'\. Known: .*lora"):
        model.load_adapter("b", folder)
    (folder / LABELS).unlink()
    with pytest.raises(CheckpointError, match="names hints or modes but has no labels"):
        model.load_adapter("b", folder)
    path.write_text(json.dumps(manifest | {"extra": {"labels": {}}}))
    with pytest.raises(CheckpointError, match="labels: field 'hints'"):
        model.load_adapter("b", folder)
    with pytest.raises(InvalidInputError, match="names a folder too"):
        model.load_adapter("../b", folder)
    assert list(model.host.adapters) == ["skill", "plain"]
    assert set(model.tables) == {"skill"}
