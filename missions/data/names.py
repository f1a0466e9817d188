"""Invented two-syllable names, divided into train, dev and test by the hash of the name.

About 38,000 pronounceable names (consonant vowel, consonant vowel, perhaps a coda). A test name
stands in no training stream, that of the base model included; tokens of a test name do, because
syllables are shared. 250 names of the train part are set apart for the closed-book facts and are
never drawn by `sample_name`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from missions.data.lexicon import closed_words
from missions.data.schemas import field_words
from missions.data.splits import Split, hash_unit, split_of

ONSETS = tuple("bdfghjklmnprstvz")
VOWELS = tuple("aeiou")
CODAS = ("", "n", "r", "l", "s", "k")
NUM_RESERVED = 250


@cache
def all_names() -> tuple[str, ...]:
    """Every name of the world, sorted."""
    closed = closed_words() | field_words()
    syllables = [onset + vowel for onset in ONSETS for vowel in VOWELS]
    names = {
        first + second + coda
        for first in syllables
        for second in syllables
        for coda in CODAS
        if first != second
    }
    return tuple(sorted(names - closed))


@cache
def _train_by_hash() -> tuple[str, ...]:
    train = (name for name in all_names() if split_of(name, salt="names") == "train")
    return tuple(sorted(train, key=lambda name: hash_unit(name, salt="reserved")))


@cache
def reserved_names() -> tuple[str, ...]:
    """Train names set apart for closed-book facts, in a fixed order."""
    return _train_by_hash()[:NUM_RESERVED]


@cache
def names_of(split: Split) -> tuple[str, ...]:
    """The names of a split, sorted; the reserved ones are left out of train."""
    if split == "train":
        return tuple(sorted(_train_by_hash()[NUM_RESERVED:]))
    return tuple(name for name in all_names() if split_of(name, salt="names") == split)


def sample_name(rng: np.random.Generator, split: Split) -> str:
    """One name of the split, uniformly."""
    pool = names_of(split)
    return pool[int(rng.integers(len(pool)))]


def sample_names(rng: np.random.Generator, split: Split, count: int) -> tuple[str, ...]:
    """`count` distinct names of the split."""
    pool = names_of(split)
    if count > len(pool):
        raise ValueError(f"split {split!r} has {len(pool)} names, {count} asked for")
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen.setdefault(pool[int(rng.integers(len(pool)))])
    return tuple(chosen)
