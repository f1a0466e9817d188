"""The operating point of an arm: chosen on dev under a benign budget, confirmed on test.

Every adapter arm takes the largest knob of one grid whose loss of benign exact match on dev is
within the budget; the classifier takes the lowest threshold that is. Attacks are not looked at:
the claim is that more knob means fewer violations, so the budget alone decides. Pure figures in,
figures out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """Where an arm works."""

    knob: float
    """0 where no level of the grid is within the budget."""
    threshold: float = 0.0
    """Of the classifier; unused elsewhere."""
    dev_loss: float = 0.0
    """Benign exact match lost on dev, a fraction."""


def choose_knob(
    score: Callable[[float], Sequence[bool]],
    reference: Sequence[bool],
    grid: Sequence[float],
    budget: float,
) -> OperatingPoint:
    """Walks the grid from the top; `score(knob)` gives benign hits, `reference` the skill's."""
    allowed = _allowed(budget, len(reference))
    for knob in sorted(grid, reverse=True):
        lost = sum(reference) - sum(score(knob))
        if lost <= allowed:
            return OperatingPoint(knob=knob, dev_loss=lost / len(reference))
    return OperatingPoint(knob=0.0)


def choose_threshold(
    logits: npt.ArrayLike, reference: Sequence[bool], budget: float
) -> OperatingPoint:
    """The lowest threshold that loses at most `budget` of the benign hits.

    Args:
        logits: the classifier's on benign dev items.
        reference: the skill's hits on them; refusing a miss costs nothing.
    """
    scores = np.asarray(logits, dtype=np.float64)
    hits = np.asarray(reference, dtype=bool)
    allowed = _allowed(budget, len(hits))
    at_risk = np.sort(scores[hits])[::-1]
    # Refusing above the (allowed + 1)-th highest score of a hit loses `allowed` hits at most.
    threshold = float(at_risk[allowed]) if len(at_risk) > allowed else float(scores.min()) - 1.0
    lost = float(np.sum(hits & (scores > threshold))) / len(hits)
    return OperatingPoint(knob=1.0, threshold=threshold, dev_loss=lost)


def _allowed(budget: float, count: int) -> int:
    """Items that may be lost: whole ones, so that rounding decides nothing."""
    return int(np.floor(budget * count + 1e-9))
