"""One registry with a living model, trained once; each test gets a copy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import httpx2
import pytest

from bem import load_base
from fleet.serving.local import serving
from fleet.serving.server import Server
from fleet.serving.tokens import Secrets
from missions.base_model import bundled_path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from living_shop import LivingShop, stock


class Open(Protocol):
    def __call__(
        self, shop: LivingShop, secrets: Secrets = ...
    ) -> AbstractContextManager[tuple[Server, httpx2.Client]]: ...


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> LivingShop:
    folder = bundled_path()
    return stock(load_base(folder), folder, tmp_path_factory.mktemp("living") / "registry")


@pytest.fixture
def living(trained: LivingShop, tmp_path: Path) -> LivingShop:
    shutil.copytree(trained.registry, tmp_path / "registry")
    return replace(trained, registry=tmp_path / "registry", fields=dict(trained.fields))


@pytest.fixture
def opened() -> Open:
    @contextmanager
    def open_(
        shop: LivingShop, secrets: Secrets | None = None
    ) -> Iterator[tuple[Server, httpx2.Client]]:
        server = Server(shop.settings(), base=load_base(shop.base_folder))
        with serving(server, secrets) as url, httpx2.Client(base_url=url, timeout=30) as http:
            yield server, http

    return open_  # type: ignore[return-value]
