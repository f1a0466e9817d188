from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from bem import AdapterHost, BaseModel, load_base, make_config
from bem.errors import InvalidInputError
from bem.retrieval import BaseEncoder, MicroIndex, SentenceEncoder
from bem.retrieval import sentence_encoder as sentence_module
from bem.testing import write_tiny_base

TEXTS = ["kamir is a cook", "dola", "the price of tusen is 7, he said", "vorak pays 9"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(write_tiny_base(tmp_path_factory.mktemp("base")))


@pytest.fixture
def host(base: BaseModel) -> Iterator[AdapterHost]:
    with AdapterHost(base) as made:
        yield made


def one_by_one(base: BaseModel, layer: int) -> np.ndarray:
    """The mean state of each text alone, without padding."""
    means = []
    for text in TEXTS:
        ids = torch.tensor([base.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = base.decoder(input_ids=ids, output_hidden_states=True).hidden_states
        means.append(states[layer][0].mean(0).numpy())
    return np.stack(means)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_the_base_encoder_is_the_mean_of_its_states(base: BaseModel, layer: int) -> None:
    means = one_by_one(base, layer)
    for encoder, expected in (
        (BaseEncoder(base, layer=layer), means),
        (BaseEncoder(base, layer=layer).centred_on(TEXTS), means - means.mean(0)),
    ):
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


def test_adapters_do_not_change_an_encoding_nor_it_their_state(
    base: BaseModel, host: AdapterHost
) -> None:
    draw = torch.Generator().manual_seed(0)
    adapter = host.add("a", make_config("lora", rank=2), generator=draw)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw))
    host.use("a")
    encoder = BaseEncoder(host)
    made = encoder.encode(TEXTS)
    with pytest.raises(InvalidInputError, match="carries an AdapterHost"):
        BaseEncoder(base).encode(TEXTS)
    host.detach()
    np.testing.assert_array_equal(BaseEncoder(base).encode(TEXTS), made)


def test_a_base_encoded_index_comes_back_on_the_same_base_only(
    base: BaseModel, tmp_path: Path
) -> None:
    head_ED = np.random.default_rng(0).normal(size=(8, base.hidden_size)).astype(np.float32)
    encoder = BaseEncoder(base, layer=1).centred_on(TEXTS).with_head(head_ED)
    index = MicroIndex(TEXTS, encoder)
    index.save(tmp_path / "index")
    loaded = MicroIndex.load(tmp_path / "index", source=base)
    assert loaded.encoder.settings == encoder.settings
    assert loaded.encoder.dim == 8
    ours, theirs = index.search(["dola"], 4), loaded.search(["dola"], 4)
    np.testing.assert_array_equal(theirs.ids_QK, ours.ids_QK)
    np.testing.assert_array_equal(theirs.scores_QK, ours.scores_QK)
    with pytest.raises(InvalidInputError, match="as `source`"):
        MicroIndex.load(tmp_path / "index")
    other = load_base(write_tiny_base(tmp_path / "other", seed=1))
    with pytest.raises(InvalidInputError, match="another base: digest"):
        MicroIndex.load(tmp_path / "index", source=other)


def test_bad_layers_heads_and_texts_are_named(base: BaseModel) -> None:
    with pytest.raises(InvalidInputError, match=r"layer 9 is not in -3\.\.2"):
        BaseEncoder(base, layer=9)
    with pytest.raises(InvalidInputError, match="do not fit"):
        BaseEncoder(base, head_ED=np.zeros((4, 3), dtype=np.float32))
    with pytest.raises(InvalidInputError, match="text 1 has no token"):
        BaseEncoder(base).encode(["a", ""])


def test_without_the_library_the_sentence_encoder_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sentence_module, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match="pip install sentence-transformers`, or use Base"):
        SentenceEncoder("any")


class Letters:
    """Stands in for a sentence-transformers model: counts of letters."""

    letters = "abcdefghij"

    def __init__(self, ref: str, device: str) -> None:
        self.ref = ref

    def encode(
        self, texts: list[str], *, convert_to_numpy: bool, show_progress_bar: bool
    ) -> np.ndarray:
        return np.array([[1.0 + text.count(c) for c in self.letters] for text in texts])


def test_a_sentence_encoder_that_changed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a stand-in for the library, which is not installed with the tests."""
    library = ModuleType(sentence_module.LIBRARY)
    library.SentenceTransformer = Letters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, sentence_module.LIBRARY, library)
    monkeypatch.setattr(sentence_module, "find_spec", lambda name: object())
    encoder = SentenceEncoder("letters")
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, atol=1e-6)
    MicroIndex(TEXTS, encoder).save(tmp_path)
    assert MicroIndex.load(tmp_path).search(["a cook is kamir"], 1).ids_QK.tolist() == [[0]]
    monkeypatch.setattr(Letters, "letters", "klmnopqrst")
    with pytest.raises(InvalidInputError, match="no longer gives the vectors"):
        MicroIndex.load(tmp_path)
