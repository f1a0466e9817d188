"""The static LoRA against PEFT's, with the same weights: logits and gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from bem import AdapterHost, load_base, make_config
from bem.testing import write_tiny_base


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora_equals_peft(family: str, tmp_path: Path) -> None:
    base = load_base(write_tiny_base(tmp_path, family))
    draw = torch.Generator().manual_seed(0)
    names = sorted({site.name.rsplit(".", 1)[1] for site in base.sites("all-linear")})
    theirs = get_peft_model(
        copy.deepcopy(base.model),
        LoraConfig(r=4, lora_alpha=12, target_modules=names, fan_in_fan_out=family == "gpt2"),
    )
    host = AdapterHost(base)
    adapter = host.add("ours", make_config("lora", rank=4, alpha=12.0), generator=draw)
    host.use("ours")
    parts = {site.name: layer for site, layer in zip(adapter.sites, adapter.layers, strict=True)}
    pairs = []
    with torch.no_grad():
        for path, layer in parts.items():
            peft_layer = theirs.base_model.model.get_submodule(path)
            layer.up_OR.normal_(0, 0.2, generator=draw)
            peft_layer.lora_A["default"].weight.copy_(layer.down_RI)
            peft_layer.lora_B["default"].weight.copy_(layer.up_OR)
            pairs.append((layer.down_RI, peft_layer.lora_A["default"].weight))
            pairs.append((layer.up_OR, peft_layer.lora_B["default"].weight))
    assert len(pairs) == len(list(adapter.parameters()))

    ids_BT = torch.randint(3, 250, (3, 11), generator=draw)
    ours_logits, theirs_logits = host(ids_BT).logits, theirs(ids_BT).logits
    torch.testing.assert_close(ours_logits, theirs_logits, rtol=0, atol=2e-6)
    for logits in (ours_logits, theirs_logits):
        logits.log_softmax(-1)[..., 7].mean().backward()
    for ours, peft in pairs:
        assert peft.grad is not None
        assert float(peft.grad.abs().max()) > 0
        torch.testing.assert_close(ours.grad, peft.grad, rtol=0, atol=2e-6)
