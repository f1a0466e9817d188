"""An adapter that reads retrieval: it follows its index, and both are saved and loaded as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.errors import InvalidInputError
from bem.retrieval import (
    FEATURES,
    BaseEncoder,
    HashedEncoder,
    MicroIndex,
    Retriever,
    load_with_index,
    save_with_index,
)
from bem.testing import write_tiny_base

HERE = ("kamir age 34", "dola age 12", "tusen price 7", "vorak fee 9")
THERE = ("kamir age 99", "lidu age 12", "lidu price 8", "lidu fee 9")
QUERIES = ["kamir age", "tusen price"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(write_tiny_base(tmp_path_factory.mktemp("base")))


@pytest.fixture
def host(base: BaseModel) -> Iterator[AdapterHost]:
    with AdapterHost(base) as made:
        draw = torch.Generator().manual_seed(0)
        config = make_config("generated", rank=2, side_size=len(FEATURES))
        adapter = made.add("reader", config, generator=draw)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        made.use("reader")
        yield made


@torch.no_grad()
def answers(host: AdapterHost, retriever: Retriever) -> tuple[Tensor, tuple[str, ...]]:
    """Logits after the same prompt, and the texts that came first."""
    retrieved = retriever.retrieve(QUERIES)
    ids_BT = torch.arange(10, 18).expand(2, -1)
    context = RoutingContext(
        prefix_mask_BT=torch.ones(2, 8, dtype=torch.bool), side_BF=retrieved.side_QF
    )
    logits: Tensor = host(ids_BT, routing=context).logits
    return logits, tuple(texts[0] for texts in retrieved.texts)


def test_behaviour_follows_the_index(host: AdapterHost) -> None:
    encoder = HashedEncoder(64)
    here, there = MicroIndex(HERE, encoder), MicroIndex(THERE, encoder)
    retriever = Retriever(here, k=2)
    before, texts = answers(host, retriever)
    assert texts == ("kamir age 34", "tusen price 7")
    with retriever.swapped(there):
        swapped, other_texts = answers(host, retriever)
    assert other_texts == ("kamir age 99", "lidu price 8")
    fresh, _ = answers(host, Retriever(there, k=2))
    assert torch.equal(swapped, fresh)
    # the first query is found as well as before up to its number, the second is not
    assert not torch.allclose(swapped[1], before[1], atol=1e-3)
    with retriever.swapped(MicroIndex(HERE, encoder)):
        again, _ = answers(host, retriever)
    assert torch.equal(again, before)
    assert torch.equal(answers(host, retriever)[0], before)


@pytest.mark.parametrize("encoder_of", ["hashed", "base"])
def test_an_adapter_comes_back_with_its_index(
    base: BaseModel, host: AdapterHost, tmp_path: Path, encoder_of: str
) -> None:
    encoder = HashedEncoder(64) if encoder_of == "hashed" else BaseEncoder(host).centred_on(HERE)
    index = MicroIndex(HERE, encoder)
    before, texts = answers(host, Retriever(index, k=2))
    manifest = save_with_index(host, "reader", tmp_path / "both", index, extra={"seed": 3})
    assert manifest.extra["seed"] == 3
    with pytest.raises(InvalidInputError, match="already holds"):
        save_with_index(host, "reader", tmp_path / "both", index)
    host.detach()
    with AdapterHost(base) as fresh:
        _, loaded = load_with_index(fresh, "again", tmp_path / "both")
        fresh.use("again")
        after, texts_again = answers(fresh, Retriever(loaded, k=2))
    assert texts_again == texts
    assert torch.equal(after, before)


def test_one_flipped_bit_in_any_file_is_refused(
    base: BaseModel, host: AdapterHost, tmp_path: Path
) -> None:
    index = MicroIndex(HERE, BaseEncoder(host).centred_on(HERE))
    folder = tmp_path / "both"
    save_with_index(host, "reader", folder, index)
    host.detach()
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / "manifest.json"]
    assert [p.name for p in files] == [
        "adapter.safetensors",
        "encoder.safetensors",
        "index.faiss",
        "manifest.json",
        "texts.json",
    ]
    with AdapterHost(base) as fresh:
        for path in files:
            whole = path.read_bytes()
            for at in (0, len(whole) // 2, len(whole) - 1):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                with pytest.raises(InvalidInputError, match=r"manifest|does not verify"):
                    load_with_index(fresh, "again", folder)
                assert not fresh.adapters
            path.write_bytes(whole)
        load_with_index(fresh, "again", folder)


def test_an_adapter_without_an_index_is_told_apart(host: AdapterHost, tmp_path: Path) -> None:
    from bem.checkpoint import save_adapter

    save_adapter(host, "reader", tmp_path / "alone")
    with pytest.raises(InvalidInputError, match="without an index"):
        load_with_index(host, "again", tmp_path / "alone")
