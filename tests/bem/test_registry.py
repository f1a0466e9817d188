from __future__ import annotations

from pathlib import Path

import pytest

import bem.adapters
from bem import adapter_class, adapter_kinds, add_adapter_folder, make_config
from bem.errors import InvalidInputError

FOLDERS = sorted(p.parent.name for p in Path(bem.adapters.__file__).parent.glob("*/__init__.py"))


def test_every_folder_is_an_adapter_and_is_whole() -> None:
    assert list(adapter_kinds()) == FOLDERS
    assert {"lora", "generated", "interpolation"} <= set(FOLDERS)
    for kind in FOLDERS:
        assert adapter_class(kind).kind == adapter_class(kind).config_class.kind == kind
        folder = Path(bem.adapters.__file__).parent / kind
        for name in ("config.py", "layer.py", "naive.py", "README.md"):
            assert (folder / name).stat().st_size > 0
        assert "arXiv" in (folder / "README.md").read_text()


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"Unknown adapter 'rltd'\. Known: .*lora"):
        make_config("rltd")
    with pytest.raises(InvalidInputError, match=r"field 'rnk'\. Known: alpha, rank, targets"):
        make_config("lora", rnk=3)
    with pytest.raises(InvalidInputError, match=r"'lora': field 'rank' is 0: .*greater than"):
        make_config("lora", rank=0)


def test_a_folder_elsewhere_must_be_an_adapter_of_a_new_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"has no __init__\.py: it holds no adapter"):
        add_adapter_folder(tmp_path)
    taken = tmp_path / "lora"
    taken.mkdir()
    (taken / "__init__.py").touch()
    with pytest.raises(InvalidInputError, match="There is an adapter 'lora' already; rename"):
        add_adapter_folder(taken)
    assert list(adapter_kinds()) == FOLDERS
