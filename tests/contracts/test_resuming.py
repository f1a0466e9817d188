"""Every kind: a training that was cut and goes on in fresh objects ends with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_cells import DEVICES, add, generator, rows
from torch import Tensor

from bem import AdapterHost, BaseModel, adapter_class, adapter_kinds, load_base
from bem.data import pad
from bem.errors import TrainingStopped
from bem.evaluate import target_loss
from bem.interfaces import AdapterConfig
from bem.state_tree import TorchDraws
from bem.testing import write_tiny_base
from bem.training import fit
from bem.training_checkpoint import StageCheckpoints

STEPS = 8
NOT_BY_GRADIENT = ("lorahub",)
CONFIGS = [
    adapter_class(kind).examples()[0] for kind in adapter_kinds() if kind not in NOT_BY_GRADIENT
]


@pytest.fixture(scope="module")
def base(device: str, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = write_tiny_base(tmp_path_factory.mktemp("base"), "llama", layers=1)
    return load_base(folder, device=device)


def train(
    base: BaseModel,
    config: AdapterConfig,
    checkpoints: StageCheckpoints | None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Tensor]:
    with AdapterHost(base) as host:
        adapter = add(host, config, stir=False)
        host.train_only("tested")
        draw = generator(5)

        def loss(step: int) -> Tensor:
            drawn = rows(3, int(torch.randint(99, (1,), generator=draw)))
            batch = pad(drawn, pad_id=0, device=base.device)
            return target_loss(host, batch, batch.routing())

        fit(
            loss,
            host.parameter_groups(1e-2),
            steps=STEPS,
            should_stop=should_stop,
            checkpoints=checkpoints,
            carried={"draw": TorchDraws(draw)},
        )
        return {name: value.detach().clone() for name, value in adapter.state_dict().items()}


@DEVICES
@pytest.mark.parametrize("config", CONFIGS, ids=[config.kind for config in CONFIGS])
def test_a_training_that_goes_on_ends_with_the_same_bits(
    base: BaseModel, config: AdapterConfig, tmp_path: Path
) -> None:
    def store() -> StageCheckpoints:
        return StageCheckpoints(
            tmp_path / "stage", key="k", every_s=1e9, quarantine=tmp_path / "bad", alarm=pytest.fail
        )

    torch.manual_seed(0)
    whole = train(base, config, None)
    torch.manual_seed(0)
    left = iter([False] * 5 + [True])
    with pytest.raises(TrainingStopped):
        train(base, config, store(), lambda: next(left))
    torch.manual_seed(7)
    again = train(base, config, store())
    assert whole.keys() == again.keys()
    different = [name for name, value in whole.items() if not torch.equal(value, again[name])]
    assert not different
