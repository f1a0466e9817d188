from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bem.routing.controller import Pool, SequenceController


def make(pool: Pool, side_size: int = 0) -> SequenceController:
    draw = torch.Generator().manual_seed(0)
    made = SequenceController(
        hidden_size=6,
        side_size=side_size,
        width=4,
        code_size=5,
        pool=pool,
        head_spread=1.0,
        head_bias=1.0,
        generator=draw,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=draw))
    return made


def normed(x_D: Tensor) -> Tensor:
    return (x_D - x_D.mean()) / torch.sqrt(x_D.var(unbiased=False) + 1e-5)


def naive(controller: SequenceController, h_TD: Tensor, side_F: Tensor) -> Tensor:
    """The code of one row whose positions are all prompt."""
    rows = [normed(h_D) for h_D in h_TD]
    if controller.pool == "last":
        f_D = rows[-1]
    else:
        weights = [1.0] * len(rows)
        if controller.query_1D is not None:
            scores = [float(controller.query_1D[0] @ row) / math.sqrt(len(row)) for row in rows]
            weights = [math.exp(score) for score in scores]
        f_D = normed(sum(w * r for w, r in zip(weights, rows, strict=True)) / sum(weights))
    u_H = torch.tanh(controller.trunk_HD @ torch.cat([f_D, side_F]) + controller.trunk_bias_H)
    return controller.heads_NH @ u_H + controller.heads_bias_N


@torch.no_grad()
@pytest.mark.parametrize("pool", ["attention", "mean", "last"])
@pytest.mark.parametrize("side_size", [0, 2])
def test_it_equals_a_loop_over_prompt_positions(pool: Pool, side_size: int) -> None:
    controller = make(pool, side_size)
    draw = torch.Generator().manual_seed(1)
    h_BTD = torch.randn(3, 7, 6, generator=draw)
    side_BF = torch.randn(3, side_size, generator=draw)
    lengths = [7, 1, 4]
    mask_BT = torch.arange(7) < torch.tensor(lengths)[:, None]
    code_BN = controller(h_BTD, mask_BT, side_BF)
    for row, length in enumerate(lengths):
        expected_N = naive(controller, h_BTD[row, :length], side_BF[row])
        torch.testing.assert_close(code_BN[row], expected_N, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_a_row_without_prompt_gives_a_finite_code(pool: Pool) -> None:
    h_BTD = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(1))
    code_BN = make(pool)(h_BTD, torch.zeros(1, 3, dtype=torch.bool), None)
    assert bool(torch.isfinite(code_BN).all())
