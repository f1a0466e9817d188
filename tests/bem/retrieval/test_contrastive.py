from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bem import load_base
from bem.errors import InvalidInputError
from bem.retrieval import BaseEncoder, MicroIndex
from bem.retrieval.contrastive import contrastive_loss, fit_head, hard_negatives
from bem.retrieval.interfaces import unit_rows
from bem.testing import write_tiny_base


def draw(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))


def test_hard_negatives_are_the_best_wrong_texts() -> None:
    queries, texts = draw(6, 5), draw(40, 5, seed=1)
    right = [frozenset({i, 2 * i + 7}) for i in range(6)]
    expected = [
        [i for i in np.argsort(-(texts @ query), kind="stable") if i not in known][:3]
        for query, known in zip(queries, right, strict=True)
    ]
    np.testing.assert_array_equal(hard_negatives(queries, texts, right, 3), expected)
    with pytest.raises(InvalidInputError, match="need at least 41"):
        hard_negatives(queries, texts, right, 39)


def test_the_loss_is_the_papers() -> None:
    """Each query alone: its own text against all candidates that are wrong for it."""
    queries, candidates = torch.from_numpy(draw(3, 4)), torch.from_numpy(draw(5, 4, seed=1))
    right = torch.zeros(3, 5, dtype=torch.bool)
    right[0, [0, 4]] = right[1, 1] = right[2, 2] = True
    own = torch.tensor([0, 1, 2])
    losses = []
    for q in range(3):
        score = {c: float(queries[q] @ candidates[c]) / 0.2 for c in range(5)}
        wrong = sum(np.exp(s) for c, s in score.items() if not right[q, c])
        mine = np.exp(score[int(own[q])])
        losses.append(-np.log(mine / (mine + wrong)))
    made = contrastive_loss(queries, candidates, right, own, 0.2)
    assert float(made) == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_training_the_head_finds_more_and_hard_negatives_help(tmp_path: Path) -> None:
    """Queries name an item in other words than its text; near copies differ in one letter."""
    base = load_base(write_tiny_base(tmp_path))
    stems = [a + b + c for a in "bdfk" for b in "aeiou" for c in ("lm", "rs", "nt")]
    texts = [f"{stem} is told here at length {i % 7}" for i, stem in enumerate(stems)]
    queries = [f"who knows {stem}" for stem in stems]
    right = [frozenset({i}) for i in range(len(stems))]
    encoder = BaseEncoder(base, layer=0).centred_on(texts + queries)

    def found(of: BaseEncoder) -> float:
        hits = MicroIndex(texts, of).search(queries, 1).ids_QK[:, 0]
        return float((hits == np.arange(len(texts))).mean())

    def trained(negatives: int, seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        result = fit_head(
            encoder,
            queries,
            texts,
            right,
            size=16,
            steps=40,
            generator=generator,
            batch=8,
            negatives=negatives,
            refresh=10,
        )
        assert result.encoder.dim == 16
        assert result.losses[-1] < result.losses[0]
        return found(result.encoder)

    plain = sum(trained(0, seed) for seed in range(2)) / 2
    mined = sum(trained(4, seed) for seed in range(2)) / 2
    assert plain > found(encoder) + 0.1
    assert mined > plain + 0.1


def test_queries_without_an_answer_are_refused(tmp_path: Path) -> None:
    encoder = BaseEncoder(load_base(write_tiny_base(tmp_path)))
    with pytest.raises(InvalidInputError, match="at least one right text"):
        fit_head(
            encoder,
            ["a"],
            ["b"],
            [frozenset()],
            size=2,
            steps=1,
            generator=torch.Generator().manual_seed(0),
        )
