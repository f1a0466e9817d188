from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bem.errors import InvalidInputError
from bem.retrieval import HashedEncoder, MicroIndex
from bem.retrieval.encoder import _slot

TEXTS = (
    "kamir age 34 job cook boss dola",
    "dola age 12 job nurse boss tusen",
    "tusen price 7 color red maker kamir",
    "vorak fee 9 city lidu host kamir",
)


def naive_vector(text: str, encoder: HashedEncoder, titles: int) -> np.ndarray:
    """Bag of weighted features first, hashing after."""
    bag: Counter[str] = Counter()
    for position, word in enumerate(text.split()):
        weight = encoder.title_weight if position < titles else 1.0
        bag[f"w:{word}"] += weight  # type: ignore[assignment]
        framed = f"^{word}$"
        for start in range(len(word)):
            bag[f"g:{framed[start : start + 3]}"] += weight * encoder.gram_weight  # type: ignore[assignment]
    vector = np.zeros(encoder.dim)
    for feature, weight in bag.items():
        slot, sign = _slot(feature, encoder.dim)
        vector[slot] += sign * weight
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("titles", [1, 2])
def test_encoder_agrees_with_a_bag_of_features(titles: int) -> None:
    encoder = HashedEncoder(64)
    expected = np.stack([naive_vector(text, encoder, titles) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS, titles=titles), expected, atol=1e-6)


def test_search_is_exact_inner_product_search() -> None:
    index = MicroIndex(TEXTS, HashedEncoder(64))
    vectors = index.encoder.encode(TEXTS)
    query = index.encoder.encode(["kamir age"])[0]
    expected = sorted(range(len(TEXTS)), key=lambda i: (-float(vectors[i] @ query), i))
    hits = index.search(["kamir age"], 3)
    assert hits.ids_QK[0].tolist() == expected[:3]
    np.testing.assert_allclose(hits.scores_QK[0], (vectors @ query)[expected[:3]], atol=1e-6)


def test_the_title_counts_more_than_a_mention() -> None:
    index = MicroIndex(TEXTS, HashedEncoder(256))
    assert index.search(["kamir"], 1).ids_QK.tolist() == [[0]]
    assert set(index.search(["dola tusen age"], 2, titles=2).ids_QK[0].tolist()) == {1, 2}


def test_equal_scores_come_in_order_of_id() -> None:
    index = MicroIndex(["b same", "b same", "b same"], HashedEncoder(16))
    assert index.search(["b same"], 3).ids_QK.tolist() == [[0, 1, 2]]


def test_save_and_load_give_the_same_hits(tmp_path: Path) -> None:
    index = MicroIndex(TEXTS, HashedEncoder(64, title_weight=3.0, gram_weight=0.0))
    index.save(tmp_path)
    loaded = MicroIndex.load(tmp_path)
    assert loaded.texts == index.texts
    assert loaded.encoder.settings == index.encoder.settings
    ours, theirs = index.search(["dola job"], 4), loaded.search(["dola job"], 4)
    assert ours.ids_QK.tolist() == theirs.ids_QK.tolist()
    np.testing.assert_array_equal(ours.scores_QK, theirs.scores_QK)


@pytest.mark.parametrize("name", ["index.faiss", "texts.json"])
def test_an_altered_file_is_refused(tmp_path: Path, name: str) -> None:
    MicroIndex(TEXTS, HashedEncoder(64)).save(tmp_path)
    with (tmp_path / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(InvalidInputError, match=name.replace(".", r"\.")):
        MicroIndex.load(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not a saved index"):
        MicroIndex.load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(InvalidInputError, match="not a saved index"):
        MicroIndex.load(tmp_path)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(InvalidInputError, match="dim must be >= 8, got 2"):
        HashedEncoder(2)
    with pytest.raises(InvalidInputError, match=r"1\.\.4, got 5"):
        MicroIndex(TEXTS, HashedEncoder(16)).search(["x"], 5)
    with pytest.raises(InvalidInputError, match="no texts"):
        MicroIndex([], HashedEncoder(16))
