"""A registered adapter in other programs' forms: its base beside it, and PEFT's own loading."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from registry_fakes import put_folder
from transformers import AutoModelForCausalLM

import bem.peft_bridge  # noqa: F401 - tells PEFT of the method
from bem.base import load_base, progress_bars_off
from bem.model import BEMConfig, BEMModel
from bem.testing import write_tiny_base
from fleet.errors import StorageError
from fleet.registry.reader import RegistryReader
from fleet.registry.records import BaseReference
from fleet.registry.transfer import export_model
from fleet.registry.writer import Registry

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def test_base_and_peft(tmp_path: Path) -> None:
    base_folder = write_tiny_base(tmp_path / "base")
    config = BEMConfig(
        base=str(base_folder),
        adapters={
            "one": {"kind": "generated", "rank": 3},
            "two": {"kind": "lora", "rank": 2},
            "away": {"kind": "orthogonal", "avoid": "two", "basis_rank": 4},
        },
    )
    with BEMModel(config) as model:
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.host.adapters.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        model.use("one")
        wanted = model.generate("the cook", max_new_tokens=8)
        digest = model.base.digest
        with Registry(tmp_path / "registry") as registry:
            name, _ = put_folder(
                registry,
                model.save_pretrained,
                base=BaseReference(ref=str(base_folder), digest=digest),
            )
    out = tmp_path / "out"
    with RegistryReader(tmp_path / "registry") as reader:
        row = reader.resolve(name)
        made = export_model(reader, row, out, with_base=True, peft=True)
    assert made.left_out == ("away: Adapter 'orthogonal': avoid names 'two'. On this base: none.",)
    with BEMModel.from_pretrained(out / "model", base=out / "base") as model:
        assert model.generate("the cook", max_new_tokens=8) == wanted
    with progress_bars_off():
        plain = AutoModelForCausalLM.from_pretrained(out / "base", attn_implementation="eager")
    tokenizer = load_base(out / "base").tokenizer
    through = peft.PeftModel.from_pretrained(plain.eval(), out / "peft" / "one")
    ids = tokenizer(["the cook"], return_tensors="pt")
    made_ids = through.generate(**ids, max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(made_ids[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == wanted

    (out / "base" / "model.safetensors").write_bytes(
        (write_tiny_base(tmp_path / "other", seed=9) / "model.safetensors").read_bytes()
    )
    with pytest.raises(Exception, match="belongs to another base"):
        BEMModel.from_pretrained(out / "model", base=out / "base")
    (base_folder / "model.safetensors").write_bytes(
        (tmp_path / "other" / "model.safetensors").read_bytes()
    )
    with (
        RegistryReader(tmp_path / "registry") as reader,
        pytest.raises(StorageError, match="was trained over"),
    ):
        export_model(reader, row, tmp_path / "again", with_base=True, peft=False)
    assert not (tmp_path / "again").exists()
