"""LoraHub finds planted weights; its mixtures are what the formulas say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, BaseModel, make_config
from bem.adapters.lorahub import LoraHubAdapter, search
from bem.errors import InvalidInputError

WEIGHTS = (0.8, -0.5, 0.0)


def hub_on(host: AdapterHost, combination: str) -> LoraHubAdapter:
    draw = torch.Generator().manual_seed(0)
    for name in ("a", "b", "c"):
        expert = host.add(name, make_config("lora", rank=2, targets="down_proj"), generator=draw)
        with torch.no_grad():
            for layer in expert.layers:
                layer.up_OR.normal_(0, 0.2, generator=draw)
    host.freeze()
    config = make_config(
        "lorahub",
        experts=("a", "b", "c"),
        expert_ranks=(2, 2, 2),
        combination=combination,
        targets="down_proj",
    )
    hub = host.add("hub", config, generator=draw)
    assert isinstance(hub, LoraHubAdapter)
    host.use("hub")
    return hub


def delta(factors: tuple[Tensor, Tensor]) -> Tensor:
    return factors[1] @ factors[0]


def test_mixtures_are_the_formulas(llama: BaseModel) -> None:
    for combination in ("cat", "linear"):
        with AdapterHost(llama) as host:
            hub = hub_on(host, combination)
            hub.set_weights(WEIGHTS)
            for index in range(len(hub.sites)):
                parts = [host[name].factors(index) for name in ("a", "b", "c")]
                if combination == "cat":
                    wanted = sum(w * delta(f) for w, f in zip(WEIGHTS, parts, strict=True))
                else:
                    roots = [math.sqrt(abs(w)) for w in WEIGHTS]
                    signed = [math.copysign(r, w) for r, w in zip(roots, WEIGHTS, strict=True)]
                    down_RI = sum(r * f[0] for r, f in zip(signed, parts, strict=True))
                    wanted = sum(r * f[1] for r, f in zip(roots, parts, strict=True)) @ down_RI
                torch.testing.assert_close(delta(hub.factors(index)), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("combination", ["cat", "linear"])
def test_the_search_finds_planted_weights(llama: BaseModel, combination: str) -> None:
    host = AdapterHost(llama)
    hub = hub_on(host, combination)
    ids_BT = torch.randint(3, 250, (4, 10), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        hub.set_weights(WEIGHTS)
        wanted_BTV = host(ids_BT).logits.log_softmax(-1)

    @torch.no_grad()
    def loss() -> float:
        made_BTV = host(ids_BT).logits.log_softmax(-1)
        return float((made_BTV - wanted_BTV).square().mean())

    hub.set_weights((0.0, 0.0, 0.0))
    before = loss()
    draw = torch.Generator().manual_seed(1)
    result = search(hub, loss, budget=80, l1_weight=1e-4, generator=draw)
    # the sum of factors is less steep near zero, where roots of the weights are what counts
    near = 0.02 if combination == "cat" else 0.2
    assert result.loss < near * before
    assert loss() == pytest.approx(result.loss)
    assert result.weights == pytest.approx(WEIGHTS, abs=near)
    assert hub.weights_K.tolist() == pytest.approx(result.weights)
    again = search(hub, loss, budget=80, l1_weight=1e-4, generator=torch.Generator().manual_seed(1))
    assert again.losses == pytest.approx(result.losses)


def test_what_does_not_fit_is_refused(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    hub = hub_on(host, "cat")
    with pytest.raises(InvalidInputError, match="2 weights for 3 experts: a, b, c"):
        hub.set_weights([1.0, 2.0])
    with pytest.raises(InvalidInputError, match="linear needs equal ranks"):
        make_config("lorahub", experts=("a", "b"), expert_ranks=(2, 3))
    draw = torch.Generator()
    with pytest.raises(InvalidInputError, match="Unknown expert 'z'"):
        host.add("x", make_config("lorahub", experts=("z",), expert_ranks=(2,)), generator=draw)
    config = make_config("lorahub", experts=("a",), expert_ranks=(4,), targets="down_proj")
    with pytest.raises(InvalidInputError, match="rank 2, the config says 4"):
        host.add("x", config, generator=draw)
