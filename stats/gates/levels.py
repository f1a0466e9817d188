"""Grids of one arm at several levels of one thing (corruption, knob, context length).

Stacks them and takes weighted sums over the levels, such as a slope. Decides nothing.

Shapes: S seeds, N units, K levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stats.errors import MissingCellsError
from stats.gates.base import GateContext, MeanGate
from stats.scores import ArmGrid, FloatArray


def level_grids(
    config: MeanGate, context: GateContext, metrics: Sequence[str], arm: str
) -> list[ArmGrid]:
    """One grid a level, on the same cells.

    Raises:
        MissingCellsError: a level has other seeds, units or unit sizes than the first.
    """
    grids = [context.arm(metric, arm) for metric in metrics]
    for metric, grid in zip(metrics, grids, strict=True):
        same = (grid.seeds, grid.unit_ids) == (grids[0].seeds, grids[0].unit_ids)
        if not same or not np.array_equal(grid.unit_sizes_N, grids[0].unit_sizes_N):
            raise MissingCellsError(
                f"Gate {config.id!r}: level {metric!r} has other seeds or examples than level "
                f"{metrics[0]!r}; a trend needs the same cells at every level."
            )
    return grids


def stacked(grids: Sequence[ArmGrid]) -> FloatArray:
    """Seeds x units x levels."""
    return np.stack([grid.values_SN for grid in grids], axis=-1)


def slope_weights(positions_K: FloatArray) -> FloatArray:
    """Weights whose sum with the levels' scores is the least-squares slope on the positions."""
    centred_K = positions_K - positions_K.mean()
    weights_K: FloatArray = centred_K / float(np.sum(centred_K**2))
    return weights_K


def weighted_level_means(levels_SNK: FloatArray, weights_N: FloatArray | None) -> FloatArray:
    """Seeds x levels: the mean over units, by their size where weights are given."""
    if weights_N is None:
        return np.asarray(levels_SNK.mean(axis=1))
    return np.asarray(np.einsum("snk,n->sk", levels_SNK, weights_N / weights_N.sum()))
