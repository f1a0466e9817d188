from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from bem import load_base
from bem.errors import BaseModelError, InvalidInputError
from bem.testing import FAMILIES, write_tiny_base


@pytest.mark.parametrize("family", FAMILIES)
def test_presets_resolve_in_every_family(family: str, tmp_path: Path) -> None:
    base = load_base(write_tiny_base(tmp_path, family))
    attention, mlp = base.sites("attention"), base.sites("mlp")
    per_layer = {"gpt2": (2, 2)}.get(family, (4, 3))
    assert (len(attention), len(mlp)) == (2 * per_layer[0], 2 * per_layer[1])
    assert set(base.sites("all-linear")) == {*attention, *mlp}
    for site in base.sites("all-linear"):
        weight = base.model.get_submodule(site.name).weight
        shape = (site.in_features, site.out_features)
        assert tuple(weight.shape) == (shape if family == "gpt2" else shape[::-1])


def test_suffixes_select_and_an_unknown_one_lists_the_known(llama_folder: Path) -> None:
    base = load_base(llama_folder)
    assert [s.name for s in base.sites(("q_proj", "v_proj"))] == [
        f"model.layers.{i}.self_attn.{name}" for i in range(2) for name in ("q_proj", "v_proj")
    ]
    with pytest.raises(InvalidInputError, match=r"'qproj'.*Known: .*q_proj.*presets: attention"):
        base.sites(("qproj",))


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_agree_with_torchs_counter(family: str, tmp_path: Path) -> None:
    base = load_base(write_tiny_base(tmp_path, family))
    base.model.set_attn_implementation("eager")  # the counter does not see CPU flash attention
    ids_BT = torch.full((3, 17), 5)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        base.model(ids_BT, use_cache=False)
    assert counter.get_total_flops() == base.forward_flops(batch=3, seq_len=17)


def test_the_digest_names_the_weights(llama_folder: Path, tmp_path: Path) -> None:
    base = load_base(llama_folder)
    assert base.digest == load_base(llama_folder).digest
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in llama_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert load_base(copy).digest == base.digest
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_base(copy).digest != base.digest


@pytest.mark.parametrize("ref", [Path("missing"), "./missing", "/nowhere/at/all", "a b"])
def test_a_missing_folder_is_one_clear_error(ref: str | Path) -> None:
    with pytest.raises(BaseModelError, match="does not exist") as caught:
        load_base(ref)
    assert str(ref) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        load_base(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(BaseModelError, match="cannot be loaded") as caught:
        load_base(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_id_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="neither a local folder nor a hub model") as caught:
        load_base("no-such-organisation/no-such-model")
    assert "\n" not in str(caught.value)
