from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from bem.errors import InvalidInputError, NonFiniteLossError
from bem.training import fit, learning_rate_factor


def test_the_schedule_warms_up_and_ends_at_the_floor() -> None:
    factors = [learning_rate_factor(s, steps=100, warmup=10, floor=0.1) for s in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def quadratic() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([3.0]))


def test_it_equals_a_hand_written_adamw() -> None:
    """Two steps of Adam by hand, with each group's own rate, against the loop."""
    a, b = quadratic()
    groups = [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.02}]
    fit(
        lambda step: (a**2 + b**2).sum(),
        groups,
        steps=2,
        warmup=1,
        betas=(0.9, 0.99),
        clip=None,
    )
    for parameter, lr in ((a, 0.1), (b, 0.02)):
        x, m, v = 3.0, 0.0, 0.0
        for step in range(2):
            g = 2 * x
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            rate = lr * learning_rate_factor(step, steps=2, warmup=1, floor=0.0)
            x -= (
                rate
                * (m / (1 - 0.9 ** (step + 1)))
                / (math.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8)
            )
        assert float(parameter.detach()) == pytest.approx(x, rel=1e-5)


def test_the_result_and_the_log_tell_what_happened() -> None:
    a, _ = quadratic()
    seen: list[tuple[int, dict[str, float]]] = []
    result = fit(
        lambda step: (a**2).sum(),
        [{"params": [a], "lr": 0.1}],
        steps=25,
        log=lambda step, metrics: seen.append((step, metrics)),
        log_every=10,
    )
    assert result.steps == len(result.losses) == 25
    assert not result.stopped
    assert result.losses[0] == pytest.approx(9.0)
    assert result.losses[-1] < result.losses[0]
    assert [step for step, _ in seen] == [0, 10, 20, 24]
    assert set(seen[0][1]) == {"loss", "gradient_norm", "lr"}
    assert seen[0][1]["gradient_norm"] == pytest.approx(6.0)
    assert a.grad is None


def test_it_stops_when_told() -> None:
    a, _ = quadratic()
    asked = iter([False, False, True])
    result = fit(
        lambda step: (a**2).sum(),
        [{"params": [a], "lr": 0.1}],
        steps=10,
        should_stop=lambda: next(asked),
    )
    assert (result.steps, result.stopped) == (2, True)


def test_gradients_are_clipped() -> None:
    a, b = quadratic()
    norms: list[float] = []

    def loss(step: int) -> Tensor:
        return (1e4 * a + 1e4 * b).sum()

    a.register_post_accumulate_grad_hook(lambda p: norms.append(float(p.grad.norm())))
    fit(loss, [{"params": [a, b], "lr": 1e-3}], steps=1, clip=1.0)
    assert norms == [1e4]  # before clipping
    assert abs(float(a.detach()) - 3.0) < 2e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_a_failure(bad: float) -> None:
    a, _ = quadratic()
    with pytest.raises(NonFiniteLossError, match="loss of step 3 is"):
        fit(
            lambda step: (a * (bad if step == 3 else 1.0)).sum(),
            [{"params": [a], "lr": 0.1}],
            steps=5,
        )


def test_a_gradient_that_is_not_finite_is_a_failure() -> None:
    a = nn.Parameter(torch.tensor([0.0]))
    with pytest.raises(NonFiniteLossError, match="gradient norm of step 0 is"):
        fit(lambda step: a.sqrt().sum(), [{"params": [a], "lr": 0.1}], steps=5)


def test_nothing_to_train_is_an_error() -> None:
    a, _ = quadratic()
    a.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="Nothing to train"):
        fit(lambda step: a.sum(), [{"params": [a], "lr": 0.1}], steps=5)
    with pytest.raises(InvalidInputError, match="steps is 0"):
        fit(lambda step: a.sum(), [{"params": [a.requires_grad_()], "lr": 0.1}], steps=0)
