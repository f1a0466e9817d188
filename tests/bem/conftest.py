"""Tiny bases for the tests of `bem`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bem import BaseModel, load_base
from bem.testing import write_tiny_base

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def llama(llama_folder: Path) -> BaseModel:
    return load_base(llama_folder)
