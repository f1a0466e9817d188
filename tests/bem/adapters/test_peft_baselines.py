"""PEFT's methods in our host against PEFT on the whole model; AdaLoRA finds planted ranks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, VeraConfig, get_peft_model
from torch import Tensor

from bem import AdapterHost, BaseModel, load_base, make_config
from bem.adapters.adalora import AdaLoraAdapter
from bem.data import Encoded, pad
from bem.errors import InvalidInputError
from bem.evaluate import target_loss
from bem.layers.peft_sites import PeftAdapter
from bem.merging import merged
from bem.testing import write_tiny_base
from bem.training import fit

ADALORA = {"total_steps": 10, "warmup_steps": 2, "final_steps": 3}
PAIRS: list[tuple[str, dict[str, Any], type[Any], dict[str, Any]]] = [
    ("peft_lora", {"rank": 4, "alpha": 12.0}, LoraConfig, {"r": 4, "lora_alpha": 12}),
    ("dora", {"rank": 4, "alpha": 12.0}, LoraConfig, {"r": 4, "lora_alpha": 12, "use_dora": True}),
    (
        "adalora",
        {"rank": 4, "alpha": 12.0, **ADALORA},
        AdaLoraConfig,
        {"init_r": 4, "lora_alpha": 12, "total_step": 10, "tinit": 2, "tfinal": 3},
    ),
    ("vera", {"rank": 5, "projection_seed": 7}, VeraConfig, {"r": 5, "projection_prng_key": 7}),
]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("kind", "ours", "theirs", "fields"), PAIRS, ids=[p[0] for p in PAIRS])
def test_the_host_gives_what_peft_gives_on_the_whole_model(
    kind: str,
    ours: dict[str, Any],
    theirs: type[Any],
    fields: dict[str, Any],
    family: str,
    tmp_path: Path,
) -> None:
    base = load_base(write_tiny_base(tmp_path, family))
    names = sorted({site.name.rsplit(".", 1)[1] for site in base.sites("all-linear")})
    whole = get_peft_model(
        copy.deepcopy(base.model),
        theirs(target_modules=names, fan_in_fan_out=family == "gpt2", **fields),
    )
    host = AdapterHost(base)
    draw = torch.Generator().manual_seed(0)
    adapter = host.add("ours", make_config(kind, **ours), generator=draw)
    assert isinstance(adapter, PeftAdapter)
    host.use("ours")
    pairs = []
    with torch.no_grad():
        for site, layer in zip(adapter.sites, adapter.peft_layers(), strict=True):
            other = dict(whole.base_model.model.get_submodule(site.name).named_parameters())
            for name, parameter in layer.named_parameters():
                if "base_layer" in name or "ranknum" in name:
                    continue
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
                other[name].copy_(parameter)
                pairs.append((parameter, other[name]))
    assert len(pairs) == len(adapter.trainable())

    ids_BT = torch.randint(3, 250, (3, 11), generator=draw)
    logits = host(ids_BT).logits, whole(ids_BT).logits
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=2e-6)
    for made in logits:
        made.log_softmax(-1)[..., 7].mean().backward()
    for mine, peft in pairs:
        assert peft.grad is not None
        assert float(peft.grad.abs().max()) > 0
        torch.testing.assert_close(mine.grad, peft.grad, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["peft_lora", "adalora", "vera"])
def test_static_factors_are_what_the_layers_do(llama: BaseModel, kind: str) -> None:
    host, draw = AdapterHost(llama), torch.Generator().manual_seed(0)
    fields = ADALORA if kind == "adalora" else {}
    adapter = host.add("static", make_config(kind, rank=4, **fields), generator=draw)
    with torch.no_grad():
        for parameter in adapter.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    ids_BT = torch.randint(3, 250, (2, 9), generator=draw)
    with torch.no_grad():
        plain = host(ids_BT).logits
        with merged(host, "static"):
            folded = host(ids_BT).logits
        host.use("static")
        acting = host(ids_BT).logits
    assert float((acting - plain).abs().max()) > 0.1
    torch.testing.assert_close(folded, acting, rtol=0, atol=2e-5)


def test_dora_has_no_factors_and_its_magnitudes_are_the_norms_of_the_base(
    llama: BaseModel,
) -> None:
    host = AdapterHost(llama)
    adapter = host.add("d", make_config("dora", rank=2), generator=torch.Generator())
    assert isinstance(adapter, PeftAdapter)
    for layer in adapter.peft_layers():
        weight_OI = layer.get_base_layer().weight
        magnitude_O = layer.lora_magnitude_vector["default"].weight
        torch.testing.assert_close(magnitude_O, weight_OI.norm(dim=1))
    with pytest.raises(InvalidInputError, match="neither merged nor mixed"):
        adapter.factors(0)


def planted(host: AdapterHost, sites: set[str]) -> Any:
    """Batches whose answers come from the base with rank-4 deltas at `sites` only."""
    draw = torch.Generator().manual_seed(11)
    rows = [
        Encoded(
            prompt_ids=tuple(torch.randint(3, 250, (15,), generator=draw).tolist()),
            target_ids=(2,),
            id=str(i),
            cluster="c",
        )
        for i in range(64)
    ]
    teacher = host.add("teacher", make_config("lora", rank=4, alpha=4.0), generator=draw)
    with torch.no_grad():
        for site, layer in zip(teacher.sites, teacher.layers, strict=True):
            if site.name in sites:
                layer.up_OR.normal_(0, 1.0, generator=draw)
    host.freeze("teacher")
    batch = pad(rows, pad_id=0)
    host.use("teacher")
    with torch.no_grad():
        wanted_BTV = host(batch.input_ids_BT, batch.attention_mask_BT).logits.log_softmax(-1)
    host.use()
    return batch, wanted_BTV


def test_adalora_moves_rank_to_the_layers_that_need_it(llama: BaseModel) -> None:
    """The teacher differs from the base at two of the sites: rank goes there."""
    host = AdapterHost(llama)
    needed = {"model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj"}
    batch, wanted_BTV = planted(host, needed)
    config = make_config(
        "adalora",
        rank=6,
        keep=1 / 3,
        alpha=6.0,
        total_steps=100,
        warmup_steps=20,
        final_steps=20,
        orthogonality_weight=0.1,
    )
    adapter = host.add("student", config, generator=torch.Generator().manual_seed(1))
    assert isinstance(adapter, AdaLoraAdapter)
    host.train_only("student")
    host.use("student")
    draw = torch.Generator().manual_seed(2)

    def step_loss(step: int) -> Tensor:
        rows = torch.randint(64, (16,), generator=draw)
        out_BTV = host(batch.input_ids_BT[rows], batch.attention_mask_BT[rows]).logits
        return torch.nn.functional.kl_div(
            out_BTV.log_softmax(-1), wanted_BTV[rows], log_target=True, reduction="batchmean"
        )

    result = fit(step_loss, host.parameter_groups(2e-2), steps=100)
    ranks = adapter.ranks()
    assert result.losses[-1] < 0.2 * result.losses[0]
    assert sum(ranks.values()) == 2 * len(ranks)  # the budget: a third of 6 at each of 14 sites
    assert min(ranks[name] for name in needed) >= 5  # measured: 6 and 6
    assert set(sorted(ranks, key=lambda name: ranks[name])[-2:]) == needed


def test_adalora_refuses_more_steps_than_it_planned(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    config = make_config("adalora", rank=2, total_steps=4, warmup_steps=1, final_steps=1)
    host.add("a", config, generator=torch.Generator().manual_seed(0))
    host.use("a")
    rows = [Encoded(prompt_ids=(5, 6), target_ids=(7, 2), id="0", cluster="c")]
    batch = pad(rows, pad_id=0)
    groups = host.parameter_groups(1e-3)
    fit(lambda step: target_loss(host, batch, batch.routing()), groups, steps=4)
    with pytest.raises(InvalidInputError, match="total_steps is 4"):
        fit(lambda step: target_loss(host, batch, batch.routing()), groups, steps=5)
    with pytest.raises(InvalidInputError, match="leave none"):
        make_config("adalora", total_steps=4, warmup_steps=2, final_steps=2)
