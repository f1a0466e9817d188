"""Streams of mission E: facts early, questions at the very end, noise between.

A stream is units of three tokens. A fact is `mark key value` under one of the fact marks; a decoy
is the same under a decoy mark and must not be remembered; filler is one of a fixed set of phrases;
a question is `? key value`. Facts stand in the first quarter of a stream (in the first `facts`
units where a quarter is too short), questions in its last section. Pairs of key and value are
divided into train, dev and test by hash: a tested pair is no pair of any training stream.

Knows no model. Shapes: B streams, U units, T tokens, Q queries, F facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from missions.data.splits import Split, split_choices
from missions.long_memory.params import StreamParams
from missions.seeding import numpy_generator

UNIT = 3
START = 0
QUERY = 1

Marks = Literal["any", "fact"]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Streams:
    """Equally long streams."""

    ids_BT: Bytes
    facts_B: Ints
    """Facts in each stream."""

    def __len__(self) -> int:
        return int(self.ids_BT.shape[0])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kernels:
    """What streams of every length share: the facts and the last section."""

    facts: tuple[Bytes, ...]
    """(F, 3) fact units of each stream."""
    tails: Bytes
    """(B, tail_units, 3)."""


class StreamFactory:
    """Draws streams over one vocabulary."""

    def __init__(self, params: StreamParams, *, data_seed: int) -> None:
        self.params = params
        self._data_seed = data_seed
        self._pools: dict[Split, Ints] = {}
        self.first_mark = 2
        self.first_decoy = self.first_mark + params.fact_marks
        self.first_key = self.first_decoy + params.decoy_marks
        self.first_value = self.first_key + params.keys
        self.first_filler = self.first_value + params.values

    @cached_property
    def phrases(self) -> Bytes:
        """(phrases, 3) tokens; fixed by the data seed."""
        rng = numpy_generator(self._data_seed, "phrases")
        drawn = rng.integers(self.params.filler, size=(self.params.phrases, UNIT))
        return (drawn + self.first_filler).astype(np.uint8)

    def pool(self, split: Split) -> Ints:
        """(keys, n): the values that each key may have as a fact of `split`."""
        if split not in self._pools:
            values = range(self.params.values)
            self._pools[split] = np.array(
                [split_choices(values, split, salt=f"E{key}") for key in range(self.params.keys)]
            )
        return self._pools[split]

    def kernels(self, rng: np.random.Generator, facts: Ints, split: Split) -> Kernels:
        """Facts and last sections for streams that hold `facts` facts each."""
        params, pool = self.params, self.pool(split)
        drawn, tails = [], self._noise(rng, (len(facts), params.tail_units), split)
        for row, count in enumerate(facts.tolist()):
            keys = rng.permutation(params.keys)[:count]
            values = pool[keys, rng.integers(pool.shape[1], size=count)]
            marks = rng.integers(params.fact_marks, size=count) + self.first_mark
            units = np.stack([marks, keys + self.first_key, values + self.first_value], axis=1)
            drawn.append(units.astype(np.uint8))
            asked = rng.permutation(count)[: params.queries]
            where = np.sort(rng.permutation(params.tail_units)[: len(asked)])
            tails[row, where] = units[asked]
            tails[row, where, 0] = QUERY
        return Kernels(facts=tuple(drawn), tails=tails)

    def expand(
        self,
        rng: np.random.Generator,
        kernels: Kernels,
        length: int,
        split: Split,
        *,
        reach: float = 0.25,
    ) -> Streams:
        """Streams of `length` tokens around the kernels; noise and places are drawn afresh.

        Facts stand in the first `reach` of the stream, or in the first units of it where so many
        facts need more.
        """
        units = length // UNIT
        batch = len(kernels.facts)
        body = self._noise(rng, (batch, units - self.params.tail_units), split)
        for row, facts in enumerate(kernels.facts):
            first = max(min(round(units * reach), body.shape[1]), len(facts))
            body[row, np.sort(rng.permutation(first)[: len(facts)])] = facts
        content = np.concatenate([body, kernels.tails], axis=1).reshape(batch, -1)
        start = np.full((batch, length - units * UNIT), START, dtype=np.uint8)
        return Streams(
            ids_BT=np.concatenate([start, content], axis=1),
            facts_B=np.array([len(facts) for facts in kernels.facts]),
        )

    def answers(self, tail_BT: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Where a last section (B, T) holds an answer: two positions after a query mark."""
        mask = np.zeros(tail_BT.shape, dtype=bool)
        mask[:, 2:] = tail_BT[:, :-2] == QUERY
        return mask

    def fact_ends(self, ids_BT: Bytes) -> npt.NDArray[np.bool_]:
        """Where a fact is complete: the value under a fact mark."""
        mask = np.zeros(ids_BT.shape, dtype=bool)
        marks = ids_BT[:, :-2]
        mask[:, 2:] = (marks >= self.first_mark) & (marks < self.first_decoy)
        return mask

    def predictable(self, tail_BT: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Where the rest of a phrase follows from its beginning: its third token."""
        inside = tail_BT >= self.first_filler
        mask = np.zeros(tail_BT.shape, dtype=bool)
        # Units end at the end of the stream, so third tokens stand at -1, -4, ...
        third = np.zeros(tail_BT.shape[1], dtype=bool)
        third[::-1][::UNIT] = True
        mask[:, 2:] = inside[:, 2:] & inside[:, 1:-1] & inside[:, :-2]
        return mask & third

    def pairs(self, ids_BT: Bytes, *, marks: Marks = "any") -> set[tuple[int, int]]:
        """Key-value pairs (by token id) that stand in streams, after any mark or fact marks."""
        keys = ids_BT[:, 1:-1].astype(np.int64)
        is_pair = (keys >= self.first_key) & (keys < self.first_value)
        if marks == "fact":
            before = ids_BT[:, :-2]
            is_pair &= (before >= self.first_mark) & (before < self.first_decoy)
        values = ids_BT[:, 2:].astype(np.int64)
        codes = np.unique(keys[is_pair] * 256 + values[is_pair])
        return {(int(code) // 256, int(code) % 256) for code in codes}

    def _noise(self, rng: np.random.Generator, shape: tuple[int, int], split: Split) -> Bytes:
        """Decoys and phrases (B, U, 3)."""
        params = self.params
        units = self.phrases[rng.integers(params.phrases, size=shape)]
        decoys = np.flatnonzero(rng.random(shape) < params.decoy_share)
        pool = self.pool(split)
        keys = rng.integers(params.keys, size=len(decoys))
        values = pool[keys, rng.integers(pool.shape[1], size=len(decoys))]
        marks = rng.integers(params.decoy_marks, size=len(decoys)) + self.first_decoy
        flat = units.reshape(-1, UNIT)
        flat[decoys] = np.stack(
            [marks, keys + self.first_key, values + self.first_value], axis=1
        ).astype(np.uint8)
        return flat.reshape(*shape, UNIT)
