"""X-LoRA in our host against PEFT's on the whole model, and its first pass under a KV cache."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, XLoraConfig, get_peft_model
from transformers import DynamicCache

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.adapters.xlora import XLoraAdapter
from bem.errors import RoutingError
from bem.testing import write_tiny_base


def host_with_experts(base: BaseModel, **fields: object) -> AdapterHost:
    draw = torch.Generator().manual_seed(0)
    host = AdapterHost(base)
    for name in ("a", "b"):
        expert = host.add(name, make_config("lora", rank=2, alpha=3.0), generator=draw)
        with torch.no_grad():
            for layer in expert.layers:
                layer.up_OR.normal_(0, 0.2, generator=draw)
    host.freeze()
    config = make_config("xlora", experts=("a", "b"), expert_ranks=(2, 2), **fields)
    host.add("mix", config, generator=draw)
    host.use("mix")
    return host


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("layerwise", [True, False])
def test_the_host_gives_what_peft_gives_on_the_whole_model(layerwise: bool, tmp_path: Path) -> None:
    base = load_base(write_tiny_base(tmp_path / "base"))
    names = sorted({site.name.rsplit(".", 1)[1] for site in base.sites("all-linear")})
    plain = copy.deepcopy(base.model)
    host = host_with_experts(base, layerwise=layerwise, depth=2, controller_width=5)
    mix = host["mix"]
    assert isinstance(mix, XLoraAdapter)
    folders = {}
    for index, name in enumerate(("a", "b")):
        theirs = get_peft_model(
            copy.deepcopy(plain), LoraConfig(r=2, lora_alpha=3, target_modules=names)
        )
        with torch.no_grad():
            for site, layer in zip(host[name].sites, host[name].layers, strict=True):
                lora = theirs.base_model.model.get_submodule(site.name)
                lora.lora_A["default"].weight.copy_(layer.down_RI)
                lora.lora_B["default"].weight.copy_(layer.up_OR)
        folders[str(index)] = str(tmp_path / name)
        theirs.save_pretrained(folders[str(index)])
    plain.config.use_cache = False
    whole = get_peft_model(
        plain,
        XLoraConfig(
            task_type="CAUSAL_LM",
            hidden_size=base.hidden_size,
            adapters=folders,
            layerwise_scalings=layerwise,
            xlora_depth=2,
            xlora_size=5,
            xlora_dropout_p=0.0,
        ),
    )
    classifier = whole.base_model.internal_xlora_classifier
    classifier.load_state_dict(mix.tuner.base_model.internal_xlora_classifier.state_dict())
    whole.eval()
    ids_BT = torch.randint(3, 250, (3, 9), generator=torch.Generator().manual_seed(2))
    ours_BTV, theirs_BTV = host(ids_BT).logits, whole(input_ids=ids_BT).logits
    torch.testing.assert_close(ours_BTV, theirs_BTV, rtol=0, atol=2e-6)
    for made in (ours_BTV, theirs_BTV):
        made.log_softmax(-1)[..., 7].mean().backward()
    pairs = zip(mix.trainable(), classifier.parameters(), strict=True)
    for mine, peft in pairs:
        assert peft.grad is not None
        torch.testing.assert_close(mine.grad, peft.grad, rtol=0, atol=2e-6)


def test_decoding_needs_the_context_of_its_prefill(llama: BaseModel) -> None:
    host = host_with_experts(llama)
    cache = DynamicCache(config=host.model.config)
    ids_BT = torch.tensor([[5, 6, 7]])
    context = RoutingContext()
    with torch.no_grad():
        host(ids_BT, routing=context, past_key_values=cache)
        with pytest.raises(RoutingError, match="seen 0 positions, the KV cache holds 3"):
            host(ids_BT[:, :1], routing=RoutingContext(), past_key_values=cache)
        host(ids_BT[:, :1], routing=context, past_key_values=cache)
        assert context.streams["mix"].positions == 4
        with pytest.raises(RoutingError, match="give input_ids"):
            host.model(inputs_embeds=torch.zeros(1, 2, 32))
