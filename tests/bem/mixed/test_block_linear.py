"""Linears with their packed deltas as one node of the graph, against the same row by row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from bem.mixed.block_linear import BlockSite, block_linears

G, ROWS, T, IN, OUT, RANK = 3, 2, 4, 5, 6, 2
WEIGHTS = {
    "a number a row": (G * ROWS, 1, 1),
    "a code a row": (G * ROWS, 1, RANK),
    "a code a token": (G * ROWS, T, RANK),
    "a number a token": (G * ROWS, T, 1),
}


def made(seed: int, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64, requires_grad=True)


def inputs(weight_shape: Sequence[int]) -> tuple[Tensor, ...]:
    downs = [made(10 + g, RANK, IN) for g in range(G)]
    ups = [made(20 + g, OUT, RANK) for g in range(G)]
    return made(0, G * ROWS, T, IN), made(2, *weight_shape), *downs, *ups


def base(bias: bool = True) -> nn.Linear:
    linear = nn.Linear(IN, OUT, bias=bias, dtype=torch.float64).requires_grad_(False)
    linear.weight.copy_(made(1, OUT, IN).detach())
    if bias:
        linear.bias.copy_(made(3, OUT).detach())
    return linear


def site(linear: nn.Linear, weight: Tensor, factors: Sequence[Tensor]) -> BlockSite:
    return BlockSite(
        base=linear, weight_BXR=weight, downs_RI=factors[:G], ups_OR=factors[G : 2 * G]
    )


def ours(x: Tensor, weight: Tensor, *factors: Tensor, bias: bool = True) -> Tensor:
    (out,) = block_linears(x, [site(base(bias), weight, factors)])
    return out


def naive(x: Tensor, weight: Tensor, *factors: Tensor, bias: bool = True) -> Tensor:
    linear, rows = base(bias), []
    for row in range(G * ROWS):
        down, up = factors[row // ROWS], factors[G + row // ROWS]
        rows.append(linear(x[row]) + (weight[row] * (x[row] @ down.T)) @ up.T)
    return torch.stack(rows)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("label", WEIGHTS)
def test_values_and_every_gradient(label: str, bias: bool) -> None:
    given = inputs(WEIGHTS[label])
    out, expected = ours(*given, bias=bias), naive(*given, bias=bias)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    seed = made(4, *out.shape).detach()
    gradients = torch.autograd.grad(out, given, seed)
    theirs = torch.autograd.grad(expected, given, seed)
    torch.testing.assert_close(gradients, theirs, rtol=0, atol=1e-11)
    assert torch.autograd.gradcheck(ours, given)


def test_what_is_not_trained_gets_no_gradient() -> None:
    """The input at the first layer of a frozen base has none; an adapter may be frozen."""
    x, weight, *factors = (tensor.detach() for tensor in inputs(WEIGHTS["a code a row"]))
    trained = [factor.requires_grad_() for factor in (*factors[:2], *factors[4:])]
    ours(x, weight, *factors).square().sum().backward()
    theirs = torch.autograd.grad(naive(x, weight, *factors).square().sum(), trained)
    for factor, gradient in zip(trained, theirs, strict=True):
        assert factor.grad is not None
        torch.testing.assert_close(factor.grad, gradient, rtol=1e-12, atol=0)
    assert factors[2].grad is None
    assert factors[3].grad is None


def test_each_parameter_gets_a_gradient_of_its_own() -> None:
    """In the parameter's layout, so that it is taken over and not copied."""
    given = inputs(WEIGHTS["a number a row"])
    ours(*given).sum().backward()
    gradients = [parameter.grad for parameter in given[2:]]
    for parameter, gradient in zip(given[2:], gradients, strict=True):
        assert gradient is not None
        assert gradient.stride() == parameter.stride()
    spans = sorted((g.data_ptr(), g.data_ptr() + 8 * g.numel()) for g in gradients if g is not None)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("label", WEIGHTS)
def test_linears_of_one_input(label: str, shared: bool) -> None:
    """Of unlike output sizes and with weights of their own, or one for all."""
    shape = WEIGHTS[label]
    linears = [base(), nn.Linear(IN, 3, bias=False, dtype=torch.float64).requires_grad_(False)]
    linears[1].weight.copy_(made(5, 3, IN).detach())
    weights = [made(2, *shape)] if shared else [made(2, *shape), made(6, *shape)]
    factors = []
    for s, linear in enumerate(linears):
        downs = [made(10 * s + g, RANK, IN) for g in range(G)]
        ups = [made(70 + 10 * s + g, linear.out_features, RANK) for g in range(G)]
        factors.append([*downs, *ups])
    given = (made(0, G * ROWS, T, IN), *weights, *factors[0], *factors[1])

    def each(x: Tensor, *rest: Tensor) -> list[tuple[nn.Linear, Tensor, Sequence[Tensor]]]:
        weight, rest = rest[: len(weights)], rest[len(weights) :]
        parts = (rest[: 2 * G], rest[2 * G :])
        return [(linears[s], weight[s % len(weight)], parts[s]) for s in range(2)]

    def grouped(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return block_linears(x, [site(*own) for own in each(x, *rest)])

    def alone(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return tuple(out for own in each(x, *rest) for out in block_linears(x, [site(*own)]))

    outs, expected = grouped(*given), alone(*given)
    torch.testing.assert_close(outs, expected, rtol=0, atol=1e-12)
    seeds = [made(4 + s, *out.shape).detach() for s, out in enumerate(outs)]
    gradients = torch.autograd.grad(outs, given, seeds)
    theirs = torch.autograd.grad(expected, given, seeds)
    torch.testing.assert_close(gradients, theirs, rtol=0, atol=1e-11)
    assert torch.autograd.gradcheck(grouped, given)


def test_an_output_that_nobody_reads_gives_no_gradient() -> None:
    x, weight, *factors = inputs(WEIGHTS["a number a row"])
    unread = [made(90 + i, *factor.shape) for i, factor in enumerate(factors)]
    linear = base()
    read, _ = block_linears(x, [site(linear, weight, factors), site(linear, weight, unread)])
    read.square().sum().backward()
    (alone,) = block_linears(x, [site(linear, weight, factors)])
    given = (x, weight, *factors)
    theirs = torch.autograd.grad(alone.square().sum(), given)
    for tensor, gradient in zip(given, theirs, strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-12, atol=1e-12)
    assert all(factor.grad is None for factor in unread)  # zeros would let an optimizer move it
