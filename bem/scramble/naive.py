"""Plain-loop references of the scramble losses, written to be read and used by the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence


def undo_probabilities(probabilities: Sequence[float], image: Sequence[int]) -> list[float]:
    """S^-1 p: the probability of v is the one that the model gave to its image S(v)."""
    return [probabilities[image[v]] for v in range(len(probabilities))]


def kl(teacher: Sequence[float], student: Sequence[float]) -> float:
    """Sum of p log(p / q) in nats."""
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True) if p > 0)


def vicreg(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    invariance: float,
    variance: float,
    covariance: float,
) -> float:
    """VICReg by loops over positions and features."""
    n, d = len(a), len(a[0])
    distance = sum((a[i][j] - b[i][j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    total = invariance * distance
    for side in (a, b):
        means = [sum(side[i][j] for i in range(n)) / n for j in range(d)]

        def cov(
            j: int, k: int, rows: Sequence[Sequence[float]] = side, mean: list[float] = means
        ) -> float:
            return sum((rows[i][j] - mean[j]) * (rows[i][k] - mean[k]) for i in range(n)) / (n - 1)

        hinge = sum(max(0.0, 1.0 - math.sqrt(cov(j, j) + 1e-4)) for j in range(d)) / d
        cross = sum(cov(j, k) ** 2 for j in range(d) for k in range(d) if j != k) / d
        total += variance * hinge + covariance * cross
    return total
