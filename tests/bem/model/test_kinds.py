"""Every registered adapter behind the public face: built, generated with, saved, reloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bem import BEMConfig, BEMModel, adapter_class, adapter_kinds, load_base


@pytest.mark.parametrize("kind", adapter_kinds())
def test_every_kind(
    kind: str, llama_folder: Path, tmp_path: Path, shake: Callable[..., None]
) -> None:
    example = adapter_class(kind).examples()[0]
    fields: dict[str, Any] = example.model_dump(mode="json")
    adapters: dict[str, dict[str, Any]] = {}
    if "expert_0" in str(fields):
        adapters = {f"expert_{i}": {"kind": "lora", "rank": 2} for i in (0, 1)}
    adapters["a"] = {"kind": kind, **fields}
    hints: dict[str, Any] = {}
    if example.reads_side:
        adapters["a"].pop("side_size")
        hints = {"hints": ("x",), "embedding_size": 2}
    config = BEMConfig(base=str(llama_folder), adapters=adapters, active=("a",), **hints)
    base = load_base(llama_folder)
    given: dict[str, Any] = {"context_hints": "x"} if example.reads_side else {}
    with BEMModel(config, base=base) as model:
        untouched = model.generate(["abc", "de"], adaptation_strength=0, max_new_tokens=4)
        if adapter_class(kind).starts_at_base:
            assert model.generate(["abc", "de"], **given, max_new_tokens=4) == untouched
        shake(model, "a", 0.1)
        beams = model.generate(["abc", "de"], **given, num_beams=2, max_new_tokens=4)
        assert model.generate(["abc", "de"], adaptation_strength=0, max_new_tokens=4) == untouched
        model.save_pretrained(tmp_path / "saved")
    with BEMModel.from_pretrained(tmp_path / "saved", base=base) as model:
        assert model.active == ("a",)
        assert model.generate(["abc", "de"], **given, num_beams=2, max_new_tokens=4) == beams
