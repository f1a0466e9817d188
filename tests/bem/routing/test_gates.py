"""Against the papers' formulas, written out. Legend: B rows, T positions, K experts."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from bem import make_config
from bem.errors import InvalidInputError
from bem.routing.balance import (
    balance_loss,
    importance_loss,
    mean_entropy,
    utilisation,
    utilisation_gap,
)
from bem.routing.gates import gates, gates_and_softmax

LOGITS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]


def real_tokens() -> list[tuple[int, int]]:
    return [(b, t) for b in range(3) for t in range(5) if bool(MASK[b, t])]


def test_renormalised_gates_are_the_softmax_renormalised_over_the_chosen() -> None:
    g_BTK = gates(LOGITS, 2, "renormalised")
    p_BTK = LOGITS.softmax(-1)
    for b, t in real_tokens():
        best = sorted(range(4), key=lambda k: -float(p_BTK[b, t, k]))[:2]
        total = sum(float(p_BTK[b, t, k]) for k in best)
        for k in range(4):
            expected = float(p_BTK[b, t, k]) / total if k in best else 0.0
            assert float(g_BTK[b, t, k]) == pytest.approx(expected, abs=1e-6)


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    logits = LOGITS.clone().requires_grad_()
    g_BTK = gates(logits, 1, "straight_through")
    assert torch.equal(g_BTK.argmax(-1), LOGITS.argmax(-1))
    torch.testing.assert_close(g_BTK.sum(-1), torch.ones(3, 5))
    weight = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    (hard,) = torch.autograd.grad((g_BTK * weight).sum(), logits)
    soft_logits = LOGITS.clone().requires_grad_()
    (soft,) = torch.autograd.grad((soft_logits.softmax(-1) * weight).sum(), soft_logits)
    torch.testing.assert_close(hard, soft)


def test_a_gate_without_gradient_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no router gradient"):
        gates(LOGITS, 1, "renormalised")
    with pytest.raises(InvalidInputError, match="straight_through"):
        make_config("banked", top_k=1)
    with pytest.raises(InvalidInputError, match="top_k is 5"):
        make_config("banked", top_k=5)
    with pytest.raises(InvalidInputError, match="needs router 'sequence'"):
        make_config("banked", router="token", uncertainty=True)


def test_the_switch_loss_by_equations_4_to_6() -> None:
    p_BTK, g_BTK = LOGITS.softmax(-1), gates(LOGITS, 1, "straight_through")
    tokens = real_tokens()
    expected = 0.0
    for k in range(4):
        f = sum(int(p_BTK[b, t].argmax()) == k for b, t in tokens) / len(tokens)
        mean = sum(float(p_BTK[b, t, k]) for b, t in tokens) / len(tokens)
        expected += 4 * f * mean
    assert float(balance_loss(p_BTK, g_BTK > 0, MASK)) == pytest.approx(expected, rel=1e-5)


def test_importance_is_the_squared_coefficient_of_variation() -> None:
    g_BTK = gates(LOGITS, 2, "renormalised")
    importance = [sum(float(g_BTK[b, t, k]) for b, t in real_tokens()) for k in range(4)]
    mean = sum(importance) / 4
    variance = sum((x - mean) ** 2 for x in importance) / 4
    assert float(importance_loss(g_BTK, MASK)) == pytest.approx(variance / mean**2, rel=1e-4)
    even = torch.full((2, 2, 4), 0.25)
    assert float(importance_loss(even, None)) == 0.0
    one = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(2, 2, 4)
    assert float(importance_loss(one, None)) == pytest.approx(3.0)


def test_entropies_equal_scipy() -> None:
    p_BTK = LOGITS.softmax(-1)
    tokens = real_tokens()
    each = [float(entropy(p_BTK[b, t].numpy())) for b, t in tokens]
    assert float(mean_entropy(p_BTK, MASK)) == pytest.approx(sum(each) / len(each), rel=1e-5)
    pooled = torch.stack([p_BTK[b, t] for b, t in tokens]).mean(0)
    gap = math.log(4) - float(entropy(pooled.numpy()))
    assert float(utilisation_gap(p_BTK, MASK)) == pytest.approx(gap, abs=1e-6)
    unmasked = float(mean_entropy(p_BTK, torch.ones(3, 5, dtype=torch.bool)))
    assert float(mean_entropy(p_BTK, None)) == pytest.approx(unmasked, rel=1e-6)


def test_utilisation_of_an_even_bank_and_of_a_collapsed_one() -> None:
    even = utilisation(torch.eye(4).expand(2, 4, 4))
    assert even.load == pytest.approx([0.25] * 4)
    assert even.effective == pytest.approx(4.0)
    assert even.used == 1.0
    collapsed = utilisation(torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(2, 4, 4))
    assert collapsed.effective == pytest.approx(1.0)
    assert collapsed.used == 0.25


@pytest.mark.parametrize("k", [2, 3])
def test_the_written_out_gradient_is_right(k: int) -> None:
    """Of gates and softmax together, against finite differences; twice is refused by torch."""
    logits = LOGITS.double().requires_grad_()

    def both(logits: Tensor) -> tuple[Tensor, Tensor]:
        return gates_and_softmax(logits, k, "renormalised")

    assert torch.autograd.gradcheck(both, logits)
    torch.testing.assert_close(both(logits)[1], LOGITS.double().softmax(-1))
    weight, other = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1)).double()
    g_BTK, p_BTK = gates_and_softmax(logits, k, "straight_through")
    (made,) = torch.autograd.grad((g_BTK * weight + p_BTK * other).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(-1) * (weight + other)).sum(), logits)
    torch.testing.assert_close(made, soft)
