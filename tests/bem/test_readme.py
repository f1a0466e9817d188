"""Blocks of bem/README.md run as they stand, on a tiny base and for two steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

import bem
from bem.merging import merged
from bem.model import BEMModel, encode_labelled


def run(first_line: str, names: dict[str, object], replaced: dict[str, str]) -> dict[str, object]:
    """Run the block that begins with this line."""
    lines = (Path(bem.__file__).parent / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"    {first_line}"))
    block = itertools.takewhile(lambda line: not line or line.startswith("    "), lines[start:])
    code = "\n".join(line[4:] for line in block)
    for old, new in replaced.items():
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "bem/README.md", "exec"), names)
    return names


def test_the_readme_runs(llama_folder: Path) -> None:
    changes = {"path/to/folder": str(llama_folder), "steps=250": "steps=2"}
    names = run("import torch", {}, changes)
    assert names["hits"] == [False]
    assert isinstance(names["texts"], list)


def test_the_blocks_of_the_model_run(llama_folder: Path, tmp_path: Path) -> None:
    names: dict[str, object] = {"generator": torch.Generator(), "folder": tmp_path / "saved"}
    changes = {"path/to/folder": str(llama_folder), "steps=250": "steps=2"}
    run("from bem import BEMConfig", names, changes)
    model = names["model"]
    assert isinstance(model, BEMModel)
    assert model.active == ("skill",)
    names["encoded"] = encode_labelled(names["rows"], model.base.tokenizer)  # type: ignore[arg-type]
    names["merged"] = merged
    run("from bem.distil import distil", names, {})
    assert "flat" in model.host.adapters
