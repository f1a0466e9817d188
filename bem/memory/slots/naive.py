"""Slow reference of the key-value slots: one stream, one position after the other, plain loops."""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One position that a memory keeps."""

    position: int
    key: Vector
    value: Vector
    logit: float


def keep_gated(
    entries: list[Entry], arrived: Entry, *, slots: int, threshold: float
) -> list[Entry]:
    """The entries after one more position: the `slots` largest logits, in order of arrival."""
    if 1.0 / (1.0 + math.exp(-arrived.logit)) < threshold:
        return entries
    everything = [*entries, arrived]
    if len(everything) > slots:
        everything.remove(min(everything, key=lambda entry: entry.logit))
    return everything


def keep_recent(entries: list[Entry], arrived: Entry, *, slots: int, sink: int) -> list[Entry]:
    """The entries after one more position: the first `sink` and the latest others."""
    everything = [*entries, arrived]
    if len(everything) > slots:
        del everything[sink]
    return everything


def read(
    entries: list[Entry], query: Vector, *, temperature: float, empty_logit: float, gated: bool
) -> Vector:
    """Softmax over the entries and one empty slot; gated entries weigh by their beta twice."""
    width = len(entries[0].value)
    scores, scales = [], []
    for entry in entries:
        beta = 1.0 / (1.0 + math.exp(-entry.logit)) if gated else 1.0
        match = sum(a * b for a, b in zip(entry.key, query, strict=True))
        scores.append(temperature * match + math.log(beta))
        scales.append(beta)
    weights = [math.exp(score) for score in scores]
    total = sum(weights) + math.exp(empty_logit)
    return [
        sum(w * s * e.value[j] for w, s, e in zip(weights, scales, entries, strict=True)) / total
        for j in range(width)
    ]
