"""Small score tables for the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from stats.scores import ScoreTable

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

FloatArray = npt.NDArray[np.float64]
MakeTable = Callable[..., ScoreTable]
MakePair = Callable[..., tuple[FloatArray, FloatArray]]


def table(
    grids: Mapping[str, FloatArray], metric: str = "em", clusters: list[str] | None = None
) -> ScoreTable:
    """Arm -> grid of seeds x examples."""
    arms: list[str] = []
    seeds: list[int] = []
    names: list[str] = []
    for arm, values_SN in grids.items():
        num_seeds, num_examples = values_SN.shape
        arms += [arm] * values_SN.size
        seeds += [seed for seed in range(num_seeds) for _ in range(num_examples)]
        names += [f"e{i:04d}" for i in range(num_examples)] * num_seeds
    return ScoreTable.from_columns(
        arm=arms,
        seed=seeds,
        example_id=names,
        cluster_id=clusters and clusters * (len(names) // len(clusters)),
        metric=metric,
        value=np.concatenate([values_SN.ravel() for values_SN in grids.values()]),
    )


def binary_pair(
    rng: np.random.Generator,
    *,
    num_seeds: int = 5,
    num_examples: int = 200,
    base: float = 0.5,
    effect: float = 0.0,
    seed_sd: float = 0.0,
    shared: float = 0.6,
) -> tuple[FloatArray, FloatArray]:
    """Treatment and control of 0/1 scores on shared items; `shared` is how alike runs are."""
    item_N = rng.random(num_examples)

    def arm(level: float) -> FloatArray:
        level_S1 = np.clip(level + seed_sd * rng.normal(size=(num_seeds, 1)), 0.0, 1.0)
        own_SN = rng.random((num_seeds, num_examples))
        draw_SN = np.where(rng.random((num_seeds, num_examples)) < shared, item_N, own_SN)
        return (draw_SN < level_S1).astype(np.float64)

    return arm(base + effect), arm(base)


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    return table


@pytest.fixture(scope="session")
def make_pair() -> MakePair:
    return binary_pair
