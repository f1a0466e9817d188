"""Bijections and losses of scramble-equivariant training against their naive references."""

from __future__ import annotations

import pytest
import torch

from bem.scramble import VicregWeights, equivariance_kl, naive, sample_bijections, vicreg

SYMBOLS = [3, 5, 6, 9]
VOCAB = 12


def test_bijection_permutes_symbols_and_leaves_the_rest() -> None:
    bijection = sample_bijections(
        [SYMBOLS], batch=64, vocab_size=VOCAB, generator=torch.Generator().manual_seed(0)
    )
    others = [v for v in range(VOCAB) if v not in SYMBOLS]
    for row in bijection.image_BV:
        assert sorted(row[SYMBOLS].tolist()) == SYMBOLS
        assert row[others].tolist() == others
    assert len({tuple(row.tolist()) for row in bijection.image_BV}) > 12  # a fresh one a document


def test_groups_are_permuted_apart() -> None:
    bijection = sample_bijections(
        [[3, 5], [6, 9, 10]], batch=50, vocab_size=VOCAB, generator=torch.Generator().manual_seed(0)
    )
    assert set(bijection.image_BV[:, 3].tolist()) == {3, 5}
    assert set(bijection.image_BV[:, 10].tolist()) == {6, 9, 10}


def test_permutations_are_uniform() -> None:
    bijection = sample_bijections(
        [SYMBOLS], batch=24_000, vocab_size=VOCAB, generator=torch.Generator().manual_seed(1)
    )
    _, counts = torch.unique(bijection.image_BV[:, SYMBOLS], dim=0, return_counts=True)
    assert len(counts) == 24
    chi2 = float(((counts - 1000.0) ** 2 / 1000.0).sum())
    assert chi2 < 49.7  # 99.9 % quantile of chi-square with 23 degrees of freedom


def test_undoing_equals_the_naive_reference_and_is_exact_for_an_equivariant_model() -> None:
    generator = torch.Generator().manual_seed(2)
    bijection = sample_bijections([SYMBOLS], batch=3, vocab_size=VOCAB, generator=generator)
    logits_BTV = torch.randn(3, 5, VOCAB, generator=generator)
    undone_BTV = bijection.undo_logits(logits_BTV)
    for b in range(3):
        for t in range(5):
            expected = naive.undo_probabilities(
                logits_BTV[b, t].tolist(), bijection.image_BV[b].tolist()
            )
            assert undone_BTV[b, t].tolist() == expected
    # An equivariant model gives S(v) on S x the logit that v has on x.
    scrambled_BTV = torch.empty_like(logits_BTV)
    scrambled_BTV.scatter_(2, bijection.image_BV[:, None, :].expand_as(logits_BTV), logits_BTV)
    kl = equivariance_kl(
        logits_BTV.flatten(0, 1), bijection.undo_logits(scrambled_BTV).flatten(0, 1)
    )
    assert abs(float(kl)) < 1e-6


def test_kl_equals_the_naive_sum_and_spares_the_teacher() -> None:
    generator = torch.Generator().manual_seed(3)
    teacher_NV = torch.randn(4, VOCAB, generator=generator, requires_grad=True)
    student_NV = torch.randn(4, VOCAB, generator=generator, requires_grad=True)
    loss = equivariance_kl(teacher_NV, student_NV)
    expected = sum(
        naive.kl(p.tolist(), q.tolist())
        for p, q in zip(teacher_NV.softmax(-1), student_NV.softmax(-1), strict=True)
    )
    assert float(loss.detach()) == pytest.approx(expected / 4, rel=1e-5)
    loss.backward()
    assert teacher_NV.grad is None
    assert student_NV.grad is not None
    assert float(student_NV.grad.abs().max()) > 0


def test_vicreg_equals_the_naive_reference() -> None:
    generator = torch.Generator().manual_seed(4)
    a_ND = 0.3 * torch.randn(7, 3, generator=generator, dtype=torch.float64)
    b_ND = 0.3 * torch.randn(7, 3, generator=generator, dtype=torch.float64)
    loss = vicreg(a_ND, b_ND, VicregWeights(invariance=25, variance=25, covariance=1))
    assert float(loss) == pytest.approx(
        naive.vicreg(a_ND.tolist(), b_ND.tolist(), 25, 25, 1), rel=1e-5
    )


def test_collapse_costs_the_whole_variance_hinge() -> None:
    constant_ND = torch.zeros(8, 4)
    weights = VicregWeights(invariance=1, variance=1, covariance=1)
    assert float(vicreg(constant_ND, constant_ND, weights)) == pytest.approx(
        2 * (1 - 0.01), abs=1e-6
    )


@pytest.mark.parametrize(
    ("symbols", "message"), [([3, 3], "twice"), ([3], ">= 2 tokens"), ([3, 99], "in \\[0, 12\\)")]
)
def test_bad_symbols_are_refused(symbols: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_bijections(
            [symbols], batch=1, vocab_size=VOCAB, generator=torch.Generator().manual_seed(0)
        )


def test_vicreg_refuses_one_position() -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        vicreg(torch.zeros(1, 4), torch.zeros(1, 4), VicregWeights())
