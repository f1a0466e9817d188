from __future__ import annotations

import pytest
import torch

from bem import AdapterHost, BaseModel, make_config
from bem.errors import InvalidInputError
from bem.sizing import count_parameters, match_rank


@pytest.mark.parametrize(
    "config",
    [
        make_config("lora", rank=8, alpha=16.0),
        make_config("generated", rank=8, alpha=16.0),
        make_config("generated", rank=8, alpha=16.0, code="token"),
    ],
    ids=["lora", "sequence", "token"],
)
@pytest.mark.parametrize("target", [12_000, 40_000])
def test_the_size_is_met_and_the_scale_kept(llama: BaseModel, config: object, target: int) -> None:
    matched = match_rank(config, target, llama)  # type: ignore[type-var]
    host = AdapterHost(llama)
    host.add("a", matched, generator=torch.Generator().manual_seed(0))
    assert host.num_trainable("a") == count_parameters(matched, llama)
    assert abs(host.num_trainable("a") / target - 1) <= 0.05
    assert matched.alpha / matched.rank == pytest.approx(2.0)


def test_the_controller_width_fills_what_a_rank_cannot(llama: BaseModel) -> None:
    """Between two ranks of a LoRA (928 a rank) only the controller can land."""
    config = make_config("generated", rank=4, controller_width=4)
    matched = match_rank(config, 3_300, llama, tolerance=0.01)
    assert abs(count_parameters(matched, llama) / 3_300 - 1) <= 0.01
    with pytest.raises(InvalidInputError, match=r"cannot come within 1% of 3300.*nearest: 3712"):
        match_rank(make_config("lora"), 3_300, llama, tolerance=0.01)
