"""Slow reference of the delta memory: one stream, one position after the other, plain loops."""

from __future__ import annotations

import math

Vector = list[float]
Matrix = list[Vector]


def write(
    matrix: Matrix,
    keys: list[Vector],
    values: list[Vector],
    logits: Vector,
    *,
    threshold: float,
    write_cap: int,
) -> Matrix:
    """The matrix (V rows of K) after one chunk.

    Args:
        matrix: V x K.
        keys: T unit keys of width K.
        values: T values of width V.
        logits: T gate logits.
        threshold: gates below it write nothing.
        write_cap: only the largest gates of the chunk write; the earlier one first among equals.
    """
    matrix = [list(row) for row in matrix]
    betas = [1.0 / (1.0 + math.exp(-logit)) for logit in logits]
    ranked = sorted(range(len(betas)), key=lambda t: (-betas[t], t))
    for t in sorted(ranked[:write_cap]):
        if betas[t] < threshold:
            continue
        for row, value in zip(matrix, values[t], strict=True):
            recalled = sum(cell * x for cell, x in zip(row, keys[t], strict=True))
            for j, x in enumerate(keys[t]):
                row[j] += betas[t] * (value - recalled) * x
    return matrix


def read(matrix: Matrix, query: Vector) -> Vector:
    """S q."""
    return [sum(cell * x for cell, x in zip(row, query, strict=True)) for row in matrix]
