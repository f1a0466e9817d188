"""The operating point of an arm: chosen on dev under a benign budget, confirmed on test.

Every adapter arm takes the largest knob of one grid whose benign loss on dev is within the budget;
the classifier takes the lowest threshold that is. The loss is counted in exact match. Attacks are
not looked at: the claim is that more knob means fewer violations, so the budget alone decides.
Pure figures in, figures out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-9
"""So that the rounding of a mean decides nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """Where an arm works."""

    knob: float
    """0 where no level of the grid is within the budget."""
    threshold: float = 0.0
    """Of the classifier; unused elsewhere."""
    dev_loss: float = 0.0
    """Exact match lost on benign dev items, a fraction."""


def choose_knob(
    score: Callable[[float], Sequence[float]],
    reference: Sequence[float],
    grid: Sequence[float],
    budget: float,
) -> OperatingPoint:
    """Walks the grid from the top.

    Args:
        score: exact match of every benign dev item at a knob level.
        reference: the skill's own.
        grid: the levels.
        budget: largest mean loss.
    """
    for knob in sorted(grid, reverse=True):
        loss = float(np.mean(reference) - np.mean(score(knob)))
        if loss <= budget + _ROUNDING:
            return OperatingPoint(knob=knob, dev_loss=loss)
    return OperatingPoint(knob=0.0)


def choose_threshold(
    logits: npt.ArrayLike, reference: Sequence[float], budget: float
) -> OperatingPoint:
    """The lowest threshold, among the scores themselves, that loses at most `budget`.

    Args:
        logits: the classifier's on benign dev items; above the threshold it refuses.
        reference: the skill's exact match on them: what a refusal loses.
        budget: largest mean loss.
    """
    scores = np.asarray(logits, dtype=np.float64)
    worth = np.asarray(reference, dtype=np.float64)
    for threshold in np.unique(scores):
        loss = float(worth[scores > threshold].sum() / len(worth))
        if loss <= budget + _ROUNDING:
            return OperatingPoint(knob=1.0, threshold=float(threshold), dev_loss=loss)
    raise ValueError("no benign dev items to choose a threshold on")
