"""Targets are computed again from the prompts, by other means than the generator's."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from missions.data.names import names_of, reserved_names
from missions.data.splits import SPLITS, Split, leak_check, operand_split, split_of
from missions.data.tasks import SKILLS, closed_book_facts, sample_item, stream
from missions.data.templates import CANONICAL

_NAME = re.compile(r"[a-z]+")


@pytest.mark.parametrize("skill", list(SKILLS))
def test_items_are_deterministic_and_one_line(skill: str) -> None:
    first = [sample_item(np.random.default_rng(5), "test", skill) for _ in range(2)]
    assert first[0] == first[1]
    assert first[0].prompt.endswith("\n")
    assert first[0].prompt.count("\n") == 1
    assert "\n" not in first[0].target
    assert first[0].target


@pytest.mark.parametrize("skill", sorted(set(SKILLS) - {"closed_book"}))
@pytest.mark.parametrize("split", SPLITS)
def test_names_and_operands_belong_to_the_split(skill: str, split: Split) -> None:
    rng = np.random.default_rng(6)
    every = {name for part in SPLITS for name in names_of(part)} | set(reserved_names())
    for _ in range(50):
        item = sample_item(rng, split, skill)
        words = set(_NAME.findall(item.prompt + " " + item.target)) & every
        assert {split_of(word, salt="names") for word in words} <= {split}
        assert not words & set(reserved_names())
        for key in item.keys:
            if key[0].isdigit():
                assert operand_split(*map(int, key.split())) == split
            else:
                assert key in words


def test_no_test_name_in_a_training_stream() -> None:
    items = stream(np.random.default_rng(7), "train", dict.fromkeys(SKILLS, 1.0))
    texts = [item.prompt + item.target for item in itertools.islice(items, 1500)]
    leak_check(texts, names_of("test")).raise_if_leaking()


def _numbers(prompt: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", prompt)]


def test_arithmetic_targets() -> None:
    rng = np.random.default_rng(8)
    for _ in range(100):
        item = sample_item(rng, "dev", "add")
        assert int(item.target) == sum(_numbers(item.prompt))
        item = sample_item(rng, "dev", "sort_numbers")
        assert _numbers(item.target) == sorted(_numbers(item.prompt))
        item = sample_item(rng, "dev", "compare", style=CANONICAL)
        largest = item.prompt.startswith(("max", "top"))
        assert int(item.target) == (max if largest else min)(_numbers(item.prompt))


def test_sequence_targets() -> None:
    rng = np.random.default_rng(9)
    for _ in range(100):
        item = sample_item(rng, "dev", "sort_names", style=CANONICAL)
        body = item.prompt.partition(": ")[2].strip().split("; ")
        assert item.target.split("; ") == sorted(body)
        item = sample_item(rng, "dev", "induction", style=CANONICAL)
        body = item.prompt.partition(": ")[2].strip().split("; ") + item.target.split("; ")
        assert body[: len(body) // 2] == body[len(body) // 2 :]
        item = sample_item(rng, "dev", "tag", style=CANONICAL)
        tag, _, rest = item.prompt.strip().partition(": ")
        names = rest.split("; ")
        assert item.target == {"first": names[0], "last": names[-1]}.get(
            tag, "; ".join(names[::-1])
        )


def test_lookup_and_retrieval_targets() -> None:
    rng = np.random.default_rng(10)
    for _ in range(100):
        item = sample_item(rng, "dev", "lookup", style=CANONICAL)
        question, _, facts = item.prompt.strip().partition(": ")
        assert f"{question.split()[1]} {item.target}" in facts.split("; ")
        item = sample_item(rng, "dev", "retrieve", style=CANONICAL)
        question, _, records = item.prompt.strip().partition(": ")
        _, path, key = question.split()
        [entity] = [record for record in records.split("; ") if record.startswith(f"{key} ")]
        assert f" {path} {item.target} " in f"{entity} "


def test_several_keys_are_answered_in_the_order_asked() -> None:
    rng = np.random.default_rng(11)
    for _ in range(50):
        item = sample_item(rng, "dev", "retrieve_many", style=CANONICAL)
        question, _, records = item.prompt.strip().partition(": ")
        _, path, *keys = question.split()
        told = dict(record.split(f" {path} ") for record in records.split("; "))
        assert item.target.split("; ") == [told[key] for key in keys]
        assert len(keys) >= 2


def test_closed_book_facts_are_fixed() -> None:
    facts = closed_book_facts()
    assert len(facts) == 200
    assert set(facts) | set(facts.values()) <= set(reserved_names())
    assert not set(facts) & set(facts.values())


def test_unknown_skills_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown skill 'cpy'"):
        sample_item(rng, "train", "cpy")
    with pytest.raises(ValueError, match="cpy"):
        next(stream(rng, "train", {"cpy": 1.0}))
