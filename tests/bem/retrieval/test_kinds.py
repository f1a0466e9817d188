from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bem.errors import InvalidInputError
from bem.retrieval import HashedEncoder, MicroIndex
from bem.retrieval.interfaces import unit_rows
from bem.retrieval.kinds import FLAT_LIMIT, HNSW_LIMIT, KINDS, build, choose_kind, search

WORDS = [a + b for a in ("ka", "mi", "to", "ru", "se") for b in ("lan", "dor", "vek", "pim", "sol")]


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [
        " ".join([f"item{i}", *(WORDS[int(w)] for w in rng.integers(len(WORDS), size=5))])
        for i in range(count)
    ]


def recall(index: MicroIndex, vectors_ND: np.ndarray, queries: list[str], k: int) -> float:
    """Share of the k best by a plain product that the index finds."""
    scores_QN = index.encoder.encode(queries) @ vectors_ND.T
    best_QK = np.argsort(-scores_QN, axis=1, kind="stable")[:, :k]
    # a text that ties with the k-th best is as right as that one
    worst_Q = np.take_along_axis(scores_QN, best_QK, axis=1)[:, -1]
    ids_QK = index.search(queries, k).ids_QK
    found_QK = np.take_along_axis(scores_QN, ids_QK, axis=1)
    return float((found_QK >= worst_Q[:, None] - 1e-5).mean())


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return texts(3000)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.97), ("ivf", 0.6)])
def test_recall_against_brute_force(corpus: list[str], kind: str, least: float) -> None:
    encoder = HashedEncoder(64)
    index = MicroIndex(corpus, encoder, kind=kind)
    queries = [" ".join(text.split()[1:4]) for text in corpus[::20]]
    vectors_ND = encoder.encode(corpus)
    assert recall(index, vectors_ND, queries, 10) >= least
    assert recall(index, vectors_ND, corpus[::20], 1) >= (1.0 if kind == "flat" else 0.95)
    np.testing.assert_allclose(index.vectors, vectors_ND, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_index_saved_or_not(
    corpus: list[str], kind: str, tmp_path: Path
) -> None:
    encoder = HashedEncoder(64)
    first, second = (MicroIndex(corpus, encoder, kind=kind) for _ in range(2))
    first.save(tmp_path)
    loaded = MicroIndex.load(tmp_path)
    assert loaded.kind == kind
    expected = first.search(corpus[:50], 5)
    for other in (second, loaded):
        hits = other.search(corpus[:50], 5)
        np.testing.assert_array_equal(hits.ids_QK, expected.ids_QK)
        np.testing.assert_array_equal(hits.scores_QK, expected.scores_QK)
    np.testing.assert_array_equal(loaded.vectors, first.vectors)


def test_the_kind_follows_from_the_size() -> None:
    sizes = {1: "flat", FLAT_LIMIT: "flat", FLAT_LIMIT + 1: "hnsw"}
    sizes |= {HNSW_LIMIT: "hnsw", HNSW_LIMIT + 1: "ivf"}
    assert {size: choose_kind(size) for size in sizes} == sizes
    assert MicroIndex(texts(20), HashedEncoder(16)).kind == "flat"
    with pytest.raises(InvalidInputError, match="kind 'tree'"):
        MicroIndex(["a"], HashedEncoder(16), kind="tree")


def test_short_lists_are_searched_on() -> None:
    """One list is looked at and holds few vectors: the others are looked at as well."""
    rng = np.random.default_rng(1)
    x_ND = unit_rows(rng.normal(size=(800, 8)).astype(np.float32))
    index = build("ivf", x_ND)
    index.nprobe = 1
    scores_QK, ids_QK = search(index, x_ND[:5], 400)
    assert (ids_QK >= 0).all()
    assert index.nprobe == 1
    order = np.argsort(-(x_ND[:5] @ x_ND.T), axis=1)[:, :400]
    for row in range(5):
        assert set(ids_QK[row]) == set(order[row])
    assert scores_QK.shape == (5, 400)
