"""The running gain follows the stream's order, whatever order the scores are kept in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest

from missions.living_model.data import Item
from missions.living_model.running_gain import gain_figure, gain_sequence
from stats.scores import ScoreTable


@dataclass
class Prompt:
    id: str


def stream_and_scores(length: int = 300) -> tuple[list[Item], ScoreTable, np.ndarray]:
    rng = np.random.default_rng(0)
    names = [f"p{at:04d}" for at in rng.permutation(length)]
    tables, gains = [], []
    for seed in (0, 1):
        old = (rng.random(length) < 0.4).astype(float)
        new = np.maximum(old, rng.random(length) < np.linspace(0, 0.6, length)).astype(float)
        gains.append(new - old)
        for arm, values in (("online", new), ("frozen", old)):
            tables.append(
                ScoreTable.from_columns(
                    arm=arm,
                    seed=seed,
                    example_id=names,
                    cluster_id=[f"block{at // 50}" for at in range(length)],
                    metric="exact_match",
                    value=values,
                )
            )
    prompts = [cast(Item, Prompt(name)) for name in names]
    return prompts, ScoreTable.concat(tables), np.mean(gains, axis=0)


def test_running_means_follow_the_stream() -> None:
    prompts, scores, gain = stream_and_scores()
    result = gain_sequence(prompts, scores, "online", "frozen")
    assert result is not None
    found, seeds = result
    assert seeds == 2
    assert found.mean_T == pytest.approx(np.cumsum(gain)[49:] / np.arange(50, 301))
    assert found.excludes_zero_from is not None


def test_the_figure_says_what_it_covers_and_what_it_does_not() -> None:
    prompts, scores, _ = stream_and_scores()
    (figure,) = gain_figure(prompts, scores, "online", "frozen")
    assert set(figure.lines) == {"running gain", "lower limit", "upper limit"}
    assert "Report only" in figure.caption
    assert "2 seed(s)" in figure.caption
    low, high = (np.array(figure.lines[name][1]) for name in ("lower limit", "upper limit"))
    assert (low < high).all()


def test_no_sequence_no_figure() -> None:
    prompts, scores, _ = stream_and_scores(30)
    assert gain_figure(prompts, scores, "online", "frozen") == ()
    prompts, scores, _ = stream_and_scores()
    assert gain_figure(prompts, scores, "frozen", "frozen") == ()
