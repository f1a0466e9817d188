"""A model on a tiny base whose adapter was shaken, so that hints, modes and strength matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bem import BEMConfig, BEMModel
from bem.testing import write_tiny_base

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shake() -> Callable[..., None]:
    """Moves every weight of an adapter away from its start."""

    def moved(model: BEMModel, name: str, by: float = 0.3) -> None:
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.host[name].parameters():
                parameter.add_(by * torch.randn(parameter.shape, generator=draw))

    return moved


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def model(llama_folder: Path, shake: Callable[..., None]) -> Iterator[BEMModel]:
    config = BEMConfig(
        base=llama_folder,
        adapters={"skill": {"kind": "generated", "rank": 2}, "plain": {"kind": "lora", "rank": 2}},
        hints=("formal", "short"),
        modes=("careful",),
        embedding_size=3,
    )
    with BEMModel(config) as made:
        for name in ("skill", "plain"):
            shake(made, name)
        yield made
