from __future__ import annotations

import numpy as np
import pytest
import torch

from bem.distil.regression import Moments, reduced_rank_regression


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
def test_it_is_the_textbook_solution(rank: int) -> None:
    rng = np.random.default_rng(rank)
    x_NI = rng.normal(size=(60, 7)) @ np.diag([3.0, 2, 1, 1, 0.5, 0.1, 0.02])
    d_NO = x_NI @ rng.normal(size=(7, 5)) + 0.3 * rng.normal(size=(60, 5))
    moments = Moments(7, 5, torch.device("cpu"))
    for part in (slice(0, 25), slice(25, 60)):
        moments.add(torch.tensor(x_NI[part]), torch.tensor(d_NO[part]))
    found = reduced_rank_regression(moments, rank)
    full_IO, *_ = np.linalg.lstsq(x_NI, d_NO, rcond=None)
    _, _, right_OO = np.linalg.svd(x_NI @ full_IO, full_matrices=False)
    best_IO = full_IO @ right_OO[:rank].T @ right_OO[:rank]
    made_OI = (found.up_OR @ found.down_RI).numpy()
    assert found.down_RI.shape == (rank, 7)
    assert found.up_OR.shape == (5, rank)
    np.testing.assert_allclose(made_OI.T, best_IO, atol=1e-8)
    assert found.energy == pytest.approx(float((d_NO**2).sum()))
    assert found.residual == pytest.approx(float(((d_NO - x_NI @ best_IO) ** 2).sum()))


def test_directions_that_no_input_has_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    x_NI = np.pad(rng.normal(size=(20, 3)), ((0, 0), (0, 2)))
    moments = Moments(5, 4, torch.device("cpu"))
    moments.add(torch.tensor(x_NI), torch.tensor(x_NI @ rng.normal(size=(5, 4))))
    found = reduced_rank_regression(moments, 4)
    assert found.residual == pytest.approx(0.0, abs=1e-9)
    assert float(found.down_RI[:, 3:].abs().max()) < 1e-9
    empty = reduced_rank_regression(Moments(5, 4, torch.device("cpu")), 2)
    assert float(empty.up_OR.abs().sum()) == 0.0
