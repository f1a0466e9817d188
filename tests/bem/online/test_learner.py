"""The online learner on a two-parameter model whose optimum is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from bem.errors import InvalidInputError
from bem.online.learner import LearnerConfig, OnlineLearner

Pair = tuple[float, float]
"""(input, wanted output) of a line."""


class Line:
    """y = slope x + offset, with squared error."""

    def __init__(self) -> None:
        self.parameters = {
            "slope": nn.Parameter(torch.tensor([1.0])),
            "offset": nn.Parameter(torch.tensor([0.0])),
        }
        self.batches: list[list[Pair]] = []

    def losses(self, items: Sequence[Pair]) -> Tensor:
        self.batches.append(list(items))
        x, y = torch.tensor(items).T
        return (x * self.parameters["slope"] + self.parameters["offset"] - y).square()


INITIAL: list[Pair] = [(x / 4, x / 4) for x in range(-8, 9)]
SHIFTED: list[Pair] = [(x / 4, x / 4 + 2.0) for x in range(-8, 9)]


def _learner(line: Line, controller: Sequence[str] = (), **fields: float) -> OnlineLearner[Pair]:
    config = LearnerConfig.model_validate({"lr": 0.05, "batch_size": 10, "window": 20, **fields})
    generator = torch.Generator().manual_seed(0)
    return OnlineLearner(
        line.parameters, controller, line.losses, INITIAL, config, generator=generator
    )


def test_it_learns_a_shift_and_replay_holds_it_back() -> None:
    free, replayed = Line(), Line()
    learners = (
        _learner(free, replay_ratio=0.0),
        _learner(replayed, replay_ratio=0.5, reservoir=len(INITIAL)),
    )
    for learner in learners:
        for step in range(200):
            learner.observe([SHIFTED[step % len(SHIFTED)]])
            learner.update()
    assert abs(free.parameters["offset"].item() - 2.0) < 0.1
    assert free.parameters["offset"].item() > replayed.parameters["offset"].item() > 0.3


def test_batch_has_fresh_items_first_and_the_replay_share() -> None:
    line = Line()
    learner = _learner(line, replay_ratio=0.3)
    assert learner.update() is None
    learner.observe(SHIFTED[:2])
    learner.update()
    assert line.batches[-1][:2] == SHIFTED[:2]
    assert len(line.batches[-1]) == 2 + 3  # nothing older to repeat yet
    learner.observe(SHIFTED[2:6])
    learner.update()
    batch = line.batches[-1]
    assert batch[:4] == SHIFTED[2:6]
    assert sorted(batch[4:6]) == SHIFTED[:2]
    assert len(batch) == 4 + 2 + 3
    assert len(learner.reservoir) == len(INITIAL) + 6


def test_rollback_restores_everything_and_the_future_is_the_same() -> None:
    def run(poison: bool) -> tuple[float, ...]:
        line = Line()
        learner = _learner(line, ewc=0.1, proximal=0.1)
        for pair in SHIFTED[:6]:
            learner.observe([pair])
            learner.update()
        learner.commit()
        before = [value.item() for value in line.parameters.values()]
        if poison:
            for _ in range(20):
                learner.observe([(1.0, -50.0)])
                learner.update()
            assert [value.item() for value in line.parameters.values()] != before
        learner.rollback()
        assert [value.item() for value in line.parameters.values()] == before
        assert (1.0, -50.0) not in learner.reservoir
        learner.observe(SHIFTED[6:])
        report = learner.update()
        assert report is not None
        assert (1.0, -50.0) not in line.batches[-1]
        return (*before, len(learner.reservoir))

    assert run(poison=True) == run(poison=False)


def test_anchors_hold_parameters_near_the_start() -> None:
    moved = []
    for strength in (0.0, 10.0):
        line = Line()
        learner = _learner(line, replay_ratio=0.0, ewc=strength, proximal=strength)
        for step in range(100):
            learner.observe([SHIFTED[step % len(SHIFTED)]])
            learner.update()
        moved.append(line.parameters["offset"].item())
    assert moved[1] < 0.5 * moved[0]


def test_controller_moves_at_its_own_rate() -> None:
    line = Line()
    learner = _learner(line, controller=["slope"], controller_lr_scale=0.2, replay_ratio=0.0)
    learner.observe([(2.0, 9.0)])
    learner.update()
    # Adam's first step is the learning rate itself.
    assert line.parameters["slope"].item() == pytest.approx(1.0 + 0.01, abs=1e-5)
    assert line.parameters["offset"].item() == pytest.approx(0.05, abs=1e-5)


def test_large_gradients_are_clipped_and_counted_and_non_finite_ones_skipped() -> None:
    line = Line()
    learner = _learner(line, max_grad_norm=1.0, replay_ratio=0.0)
    learner.observe([(1.0, 100.0)])
    report = learner.update()
    assert report is not None
    assert report.grad_norm > 1.0
    assert (learner.num_clipped, learner.num_updates) == (1, 1)
    before = [value.item() for value in line.parameters.values()]
    learner.observe([(float("inf"), 0.0)])
    report = learner.update()
    assert report is not None
    assert not report.applied
    assert [value.item() for value in line.parameters.values()] == before
    assert learner.num_skipped == 1


def test_one_wrong_item_weighs_no_more_than_the_cap() -> None:
    """Two items, one far off: the gradient is that of the capped losses, by hand."""
    line = Line()
    learner = _learner(line, loss_cap=4.0, replay_ratio=0.0, max_grad_norm=1e9)
    learner.observe([(1.0, 2.0), (1.0, 101.0)])  # errors 1 and 100, losses 1 and 10,000
    report = learner.update()
    assert report is not None
    assert report.loss == pytest.approx((1.0 + 10_000.0) / 2)
    # d loss / d offset = mean of weight * 2 * error with weights 1 and 4 / 10,000; slope: the same.
    gradient = (2.0 * 1.0 + 4e-4 * 2.0 * 100.0) / 2
    assert report.grad_norm == pytest.approx(2**0.5 * gradient, rel=1e-5)


def test_unknown_controller_name_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="gate"):
        _learner(Line(), controller=["gate"])
