from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from bem.errors import InvalidInputError
from bem.retrieval import FEATURES, HashedEncoder, MicroIndex, Retriever, retrieval_features
from bem.retrieval.interfaces import unit_rows


def naive(query: np.ndarray, hits: np.ndarray) -> list[float]:
    """Each feature by its definition, for one query."""
    scores = sorted((float(hit @ query) for hit in hits), reverse=True)
    exps = [math.exp(s / 0.1) for s in scores]
    p = [e / sum(exps) for e in exps]
    told = hits.T @ np.linalg.lstsq(hits.T, query, rcond=1e-5)[0]
    pairs = [float(a @ b) for a, b in combinations(hits, 2)]
    return [
        scores[0],
        scores[0] - scores[1],
        -sum(x * math.log(x) for x in p) / math.log(len(p)),
        float(np.linalg.norm(told)),
        sum(pairs) / len(pairs),
    ]


def draw(*shape: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(int(np.prod(shape[:-1])), shape[-1]))
    return unit_rows(x.astype(np.float32)).reshape(shape)


def test_features_agree_with_their_definitions_in_any_order() -> None:
    queries_QD, hits_QKD = draw(5, 12), draw(2, 5, 4, 12)[1]
    hits_QKD[2, 1] = hits_QKD[2, 0]  # a text found twice covers nothing more
    expected = [naive(q, hits) for q, hits in zip(queries_QD, hits_QKD, strict=True)]
    made = retrieval_features(queries_QD, hits_QKD)
    assert made.shape == (5, len(FEATURES))
    np.testing.assert_allclose(made, expected, atol=2e-5)
    np.testing.assert_allclose(retrieval_features(queries_QD, hits_QKD[:, ::-1]), made, atol=1e-5)


def test_what_the_hits_hold_is_covered() -> None:
    texts = ["kamir age", "dola job", "kamir age", "tusen color"]
    retriever = Retriever(MicroIndex(texts, HashedEncoder(256)), k=2)
    same, half, none = retriever.retrieve(["kamir age", "kamir vorak", "zzz qqq"]).side_QF
    at = {name: i for i, name in enumerate(FEATURES)}
    assert float(same[at["best"]]) == pytest.approx(1, abs=1e-5)
    assert float(same[at["coverage"]]) == pytest.approx(1, abs=1e-5)
    assert float(same[at["margin"]]) == pytest.approx(0, abs=1e-5)
    assert float(same[at["consistency"]]) == pytest.approx(1, abs=1e-5)
    assert 0.2 < float(half[at["coverage"]]) < 0.95
    assert float(none[at["coverage"]]) < 0.2


def test_one_hit_has_neither_margin_nor_company() -> None:
    made = retrieval_features(draw(3, 6), draw(3, 1, 6))
    np.testing.assert_array_equal(made[:, 1:3], 0)
    np.testing.assert_array_equal(made[:, 4], 1)
    np.testing.assert_allclose(made[:, 3], np.abs(made[:, 0]), atol=1e-6)


def test_a_swap_is_refused_where_it_would_not_be_one() -> None:
    retriever = Retriever(MicroIndex(["a b", "c d"], HashedEncoder(16)), k=2)
    with (
        pytest.raises(InvalidInputError, match="encoded in another way"),
        retriever.swapped(MicroIndex(["a b", "c d"], HashedEncoder(32))),
    ):
        pass
    with (
        pytest.raises(InvalidInputError, match=r"k must be in 1\.\.1, got 2"),
        retriever.swapped(MicroIndex(["a b"], HashedEncoder(16))),
    ):
        pass
