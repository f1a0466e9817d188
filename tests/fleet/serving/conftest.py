"""A server in a thread over a registry with every kind of model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import torch
from fake_shop import Shop, stock

from bem import BaseModel, load_base
from bem.testing import write_tiny_base
from fleet.serving.local import serving
from fleet.serving.server import Server

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"), "llama", max_positions=512)


@pytest.fixture
def base(base_folder: Path) -> BaseModel:
    return load_base(base_folder)


@pytest.fixture(scope="session")
def shop(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return stock(load_base(base_folder), tmp_path_factory.mktemp("shop") / "registry")


@pytest.fixture(scope="session")
def server(shop: Shop) -> Server:
    return Server(shop.settings(), base=load_base(shop.base.folder))


@pytest.fixture(scope="session")
def url(server: Server) -> Iterator[str]:
    with serving(server) as where:
        yield where


@pytest.fixture(scope="session")
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=30) as client:
        yield client
