"""Anchors against autograd and a hand-computed Fisher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bem.online.anchors import Anchors, diagonal_fisher


def _parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return {
        "w": nn.Parameter(torch.randn(3, 2, generator=generator)),
        "b": nn.Parameter(torch.randn(2, generator=generator)),
    }


def test_fisher_is_the_mean_square_of_item_gradients() -> None:
    # Squared error of a linear model: d/dw = 2 (x w + b - y) x, d/db = 2 (x w + b - y).
    parameters = {"w": nn.Parameter(torch.tensor([0.5])), "b": nn.Parameter(torch.tensor([0.1]))}
    items = [(1.0, 2.0), (-2.0, 0.5), (3.0, -1.0)]

    def losses(batch: Sequence[tuple[float, float]]) -> Tensor:
        terms = [(x * parameters["w"] + parameters["b"] - y).square().sum() for x, y in batch]
        return torch.stack(terms)

    residuals = [x * 0.5 + 0.1 - y for x, y in items]
    w = sum((2 * r * x) ** 2 for r, (x, _) in zip(residuals, items, strict=True)) / 3
    b = sum((2 * r) ** 2 for r in residuals) / 3
    fisher = diagonal_fisher(parameters, losses, items)
    scale = (w + b) / 2
    torch.testing.assert_close(fisher["w"], torch.tensor([w / scale]))
    torch.testing.assert_close(fisher["b"], torch.tensor([b / scale]))


def test_pulls_equal_autograd_of_the_penalty() -> None:
    parameters = _parameters()
    fisher = {"w": torch.rand(3, 2, generator=torch.Generator().manual_seed(2)), "b": torch.ones(2)}
    anchors = Anchors(parameters, fisher, ewc=0.7, proximal=0.3)
    anchor = {name: value.detach().clone() for name, value in parameters.items()}
    with torch.no_grad():
        parameters["w"].add_(0.5)
    anchors.recentre()
    centre = {name: value.detach().clone() for name, value in parameters.items()}
    with torch.no_grad():
        parameters["w"].mul_(1.5)
        parameters["b"].sub_(2.0)
    penalty = torch.zeros(())
    for name, value in parameters.items():
        penalty = penalty + 0.35 * (fisher[name] * (value - anchor[name]) ** 2).sum()
        penalty = penalty + 0.15 * ((value - centre[name]) ** 2).sum()
        value.grad = torch.ones_like(value)
    expected = torch.autograd.grad(penalty, list(parameters.values()))
    anchors.add_gradients()
    for value, gradient in zip(parameters.values(), expected, strict=True):
        assert value.grad is not None
        torch.testing.assert_close(value.grad, gradient + 1.0)
    assert abs(anchors.penalty() - float(penalty.detach())) < 1e-4
