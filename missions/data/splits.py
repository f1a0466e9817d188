"""Split assignment by hash and the leak check: what may be seen in training, and the proof of it.

A key (a name, an operand pair, a template, an attack wrapper) belongs to one split for ever: the
split is a pure function of the key and a salt, so no list has to be stored and no generator can
disagree with another. The module knows nothing about what a key means.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from missions.errors import LeakError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN_FRACTION = 0.8
DEV_FRACTION = 0.1

T = TypeVar("T")

_WORD = re.compile(r"[a-z]+|\d+")


def hash_unit(key: str, salt: str = "") -> float:
    """Map a key to [0, 1) by BLAKE2b; the same on every machine and Python."""
    digest = hashlib.blake2b(f"{salt}\x1f{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def check_split(split: str) -> Split:
    """Return `split` typed, or raise with the allowed values."""
    for known in SPLITS:
        if split == known:
            return known
    raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")


def split_of(key: str, salt: str = "") -> Split:
    """The split that `key` belongs to: 80 % train, 10 % dev, 10 % test."""
    unit = hash_unit(key, salt)
    if unit < TRAIN_FRACTION:
        return "train"
    return "dev" if unit < TRAIN_FRACTION + DEV_FRACTION else "test"


def operand_key(a: int, b: int) -> str:
    """The key of an unordered operand pair: (3, 7) and (7, 3) share it."""
    return f"{min(a, b)} {max(a, b)}"


def operand_split(a: int, b: int) -> Split:
    """The split of an operand pair, whatever its order."""
    return split_of(operand_key(a, b), salt="operands")


def sample_operands(
    rng: np.random.Generator, split: Split, *, low: int = 0, high: int = 100, distinct: bool = False
) -> tuple[int, int]:
    """Draw an ordered pair from [low, high) whose unordered pair belongs to `split`.

    Raises:
        ValueError: if the range holds no such pair (10,000 draws without one).
    """
    for _ in range(10_000):
        a, b = (int(value) for value in rng.integers(low, high, size=2))
        if operand_split(a, b) == split and not (distinct and a == b):
            return a, b
    raise ValueError(f"no operand pair of split {split!r} in [{low}, {high}); widen the range")


def split_choices(choices: Sequence[T], split: Split, salt: str = "") -> tuple[T, ...]:
    """Divide a short list (templates, wrappers) by rank of hash: none of the splits is empty.

    With n >= 3 choices, dev and test get max(1, n // 5) each and train the rest; the order of
    `choices` does not matter, only each choice's `repr`.
    """
    if len(choices) < 3:
        raise ValueError(f"need at least 3 choices to split, got {len(choices)}")
    ranked = sorted(choices, key=lambda choice: hash_unit(repr(choice), salt))
    held = max(1, len(choices) // 5)
    parts = {"test": ranked[:held], "dev": ranked[held : 2 * held], "train": ranked[2 * held :]}
    return tuple(parts[split])


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakReport:
    """What the leak check read and found. `leaks` holds (key, first text that contains it)."""

    num_texts: int
    num_keys: int
    leaks: tuple[tuple[str, str], ...]

    @property
    def clean(self) -> bool:
        """True when no test key stands in any training text."""
        return not self.leaks

    def raise_if_leaking(self) -> None:
        """Raise LeakError naming up to three leaks."""
        if self.leaks:
            shown = "; ".join(f"{key!r} in {text[:80]!r}" for key, text in self.leaks[:3])
            raise LeakError(f"{len(self.leaks)} of {self.num_keys} test keys leak: {shown}")


def normal_words(text: str) -> tuple[str, ...]:
    """Letter runs and digit runs of `text`, lower-cased: the units in which keys are compared."""
    return tuple(_WORD.findall(text.lower()))


def leak_check(train_texts: Iterable[str], test_keys: Iterable[str]) -> LeakReport:
    """Search every training text for every test key.

    A key matches where its words (letter runs, digit runs) stand in a row in the text, whatever
    punctuation is between them: the key `"12 34"` is found in `"add: 12+34"`. Pass only the
    streams in which a key has its meaning: operand pairs against arithmetic texts, names against
    all texts.
    """
    by_length: dict[int, dict[tuple[str, ...], str]] = {}
    num_keys = 0
    for key in dict.fromkeys(test_keys):
        words = normal_words(key)
        if not words:
            raise ValueError(f"test key {key!r} holds no letter and no digit")
        by_length.setdefault(len(words), {})[words] = key
        num_keys += 1
    found: dict[str, str] = {}
    num_texts = 0
    for text in train_texts:
        num_texts += 1
        words = normal_words(text)
        for length, keys in by_length.items():
            for start in range(len(words) - length + 1):
                hit = keys.get(words[start : start + length])
                if hit is not None:
                    found.setdefault(hit, text)
    return LeakReport(num_texts=num_texts, num_keys=num_keys, leaks=tuple(sorted(found.items())))
