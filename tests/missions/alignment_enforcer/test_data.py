"""Generator of mission C: what an item promises, splits, clusters, leaks, digest."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from missions.alignment_enforcer import data
from missions.alignment_enforcer.checks import REFUSAL, refuses, violates
from missions.alignment_enforcer.data import SafetyItem
from missions.alignment_enforcer.redteam import CATEGORIES, WRAPPER_STYLES, requests, wrappers
from missions.data.names import names_of
from missions.errors import SpecError
from missions.spec import ExamplesConfig

EXAMPLES = ExamplesConfig(train=400, dev=200, test=400)


@pytest.fixture(scope="module")
def splits() -> dict[data.Split, tuple[SafetyItem, ...]]:
    return data.make_splits(EXAMPLES, 7)


def test_every_category_has_attacks_and_look_alikes() -> None:
    kinds = Counter((row.category, row.label) for row in requests())
    assert set(kinds) == {(c, label) for c in CATEGORIES for label in ("attack", "lookalike")}


def test_counts_and_ids(splits: dict[data.Split, tuple[SafetyItem, ...]]) -> None:
    for split, items in splits.items():
        count = getattr(EXAMPLES, split)
        assert len({item.id for item in items}) == len(items) == count
        labels = Counter(item.label for item in items)
        assert labels == {"attack": count // 2, "lookalike": count // 4, "plain": count // 4}
        by_category = Counter(item.category for item in items if item.label == "attack")
        assert by_category == dict.fromkeys(CATEGORIES, count // 10)


def test_the_helpful_answer_violates_and_the_refusal_does_not(
    splits: dict[data.Split, tuple[SafetyItem, ...]],
) -> None:
    for item in splits["test"]:
        if item.label == "attack":
            assert violates(item.category, item.target, item.forbidden)  # type: ignore[arg-type]
            assert not violates(item.category, REFUSAL, item.forbidden)  # type: ignore[arg-type]
            assert all(part in item.prompt for part in item.forbidden), item
        else:
            assert item.forbidden == ()
        assert not refuses(item.target)
        assert item.prompt.count("\n") == 1
        assert item.prompt.endswith("\n")
        assert "{" not in item.prompt + item.target


def test_answers_stand_in_the_prompt(splits: dict[data.Split, tuple[SafetyItem, ...]]) -> None:
    """The task is solvable: every word of a generated item's answer is in its prompt."""
    for item in splits["test"]:
        if item.label != "plain":
            assert all(word in item.prompt for word in item.target.split()), item


def test_wrappers_are_split_and_all_styles_are_everywhere() -> None:
    parts = {split: data.wrappers_of(split) for split in data.SPLITS}
    ids = [wrapper.id for part in parts.values() for wrapper in part]
    assert sorted(ids) == sorted(wrapper.id for wrapper in wrappers())
    for part in parts.values():
        assert {wrapper.style for wrapper in part} == set(WRAPPER_STYLES)


def test_look_alikes_wear_the_wrappers_of_attacks() -> None:
    items = data.make_items("test", 400, 3)
    used = {
        label: Counter(item.wrapper for item in items if item.label == label)
        for label in ("attack", "lookalike")
    }
    assert (
        used["attack"].keys()
        == used["lookalike"].keys()
        == {wrapper.id for wrapper in data.wrappers_of("test")}
    )
    assert set(used["attack"].values()) == {10}
    assert set(used["lookalike"].values()) == {5}


def test_clusters_are_equal_in_size() -> None:
    items = data.make_items("test", 2000, 3)
    attack = Counter(item.cluster for item in items if not item.benign)
    benign = Counter(item.cluster for item in items if item.benign)
    assert set(attack.values()) == {50}
    assert set(benign.values()) == {25}
    assert len(attack) == 20
    assert len(benign) == 40


def test_names_are_of_the_split(splits: dict[data.Split, tuple[SafetyItem, ...]]) -> None:
    for split, items in splits.items():
        allowed = set(names_of(split))
        for item in items:
            assert {key for key in item.keys if not key[0].isdigit()} <= allowed


def test_no_leak_and_a_planted_one_is_found(
    splits: dict[data.Split, tuple[SafetyItem, ...]],
) -> None:
    train, test = splits["train"], splits["test"]
    assert set(data.leaks(train, test).values()) == {0}
    attack = next(item for item in test if item.label == "attack")
    donor = train[0]
    by_name = dataclasses.replace(donor, prompt=f"copy: {attack.keys[0]}\n")
    assert data.leaks((*train, by_name), test)["names"] == 1
    by_wrapper = dataclasses.replace(donor, wrapper=attack.wrapper)
    assert data.leaks((*train, by_wrapper), test)["wrappers"] == 1
    whole = data.leaks((*train, attack), test)
    assert whole["prompts"] == whole["wrappers"] == 1
    pair = next(item for item in test if item.category == "compare_named")
    digits = tuple(key for key in pair.keys if key[0].isdigit())
    assert data.leaks((*train, dataclasses.replace(donor, keys=digits)), test)["operands"] == 1


def test_digest_depends_on_content_only(splits: dict[data.Split, tuple[SafetyItem, ...]]) -> None:
    again = data.make_splits(EXAMPLES, 7)
    assert data.digest(again) == data.digest(splits)
    assert data.digest(data.make_splits(EXAMPLES, 8)) != data.digest(splits)


def test_splits_survive_the_disk(
    splits: dict[data.Split, tuple[SafetyItem, ...]], tmp_path: Path
) -> None:
    data.write_split(tmp_path, "dev", splits["dev"])
    assert data.read_split(tmp_path, "dev") == splits["dev"]
    with pytest.raises(SpecError, match=r"test\.jsonl"):
        data.read_split(tmp_path, "test")


def test_counts_must_divide() -> None:
    with pytest.raises(SpecError, match="multiple of 20"):
        data.make_items("train", 30, 1)
