from __future__ import annotations

import numpy as np
import pytest

from missions.data.names import all_names, names_of, reserved_names, sample_name, sample_names
from missions.data.splits import (
    SPLITS,
    check_split,
    leak_check,
    operand_split,
    sample_operands,
    split_choices,
    split_of,
)
from missions.data.templates import CANONICAL, Style, styles_of
from missions.errors import LeakError


def test_name_splits_are_disjoint_and_complete() -> None:
    parts = [set(names_of(split)) for split in SPLITS] + [set(reserved_names())]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(all_names())


def test_split_shares_are_80_10_10() -> None:
    keys = [f"key-{i}" for i in range(20_000)]
    share = {split: sum(split_of(key) == split for key in keys) / 20_000 for split in SPLITS}
    assert share["train"] == pytest.approx(0.8, abs=0.01)
    assert share["dev"] == pytest.approx(0.1, abs=0.01)


def test_split_depends_on_the_key_and_salt_only() -> None:
    assert [split_of(f"k{i}", "a") for i in range(50)] == [
        split_of(f"k{i}", "a") for i in range(50)
    ]
    assert [split_of(f"k{i}", "a") for i in range(50)] != [
        split_of(f"k{i}", "b") for i in range(50)
    ]


def test_operand_pairs_share_a_split_in_both_orders() -> None:
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for _ in range(200):
            a, b = sample_operands(rng, split)
            assert operand_split(a, b) == operand_split(b, a) == split


def test_impossible_operand_range_is_refused() -> None:
    with pytest.raises(ValueError, match="widen the range"):
        sample_operands(np.random.default_rng(0), "train", low=5, high=6, distinct=True)


def test_split_choices_leaves_no_split_empty_and_ignores_order() -> None:
    choices = ["a", "b", "c", "d"]
    parts = [split_choices(choices, split) for split in SPLITS]
    assert sorted(choice for part in parts for choice in part) == choices
    assert all(parts)
    assert parts == [split_choices(choices[::-1], split) for split in SPLITS]
    with pytest.raises(ValueError, match="at least 3"):
        split_choices(["a", "b"], "test")


def test_styles_are_split_and_close_with_a_newline() -> None:
    train, dev, test = (set(styles_of(split)) for split in SPLITS)
    assert CANONICAL in train
    assert not train & test
    assert not train & dev
    assert not dev & test
    with pytest.raises(ValueError, match="newline"):
        Style(end=" =")


def test_unknown_split_names_the_allowed_ones() -> None:
    assert check_split("dev") == "dev"
    with pytest.raises(ValueError, match="train, dev, test"):
        check_split("val")


def test_sampled_names_are_distinct_and_of_the_split() -> None:
    names = sample_names(np.random.default_rng(1), "test", 200)
    assert len(set(names)) == 200
    assert set(names) <= set(names_of("test"))
    with pytest.raises(ValueError, match="asked for"):
        sample_names(np.random.default_rng(1), "test", 100_000)


def test_leak_check_finds_planted_leaks_only() -> None:
    rng = np.random.default_rng(2)
    keys = list(sample_names(rng, "test", 100))
    clean = [f"copy: {sample_name(rng, 'train')}\n" for _ in range(300)]
    assert leak_check(clean, keys).clean
    planted = [*clean, f'{{"name":"{keys[7].upper()}"}}', "add: 12+34 =\n46"]
    report = leak_check(planted, [*keys, "12 34", "13 34"])
    assert [key for key, _ in report.leaks] == sorted(["12 34", keys[7]])
    assert (report.num_texts, report.num_keys) == (302, 102)
    with pytest.raises(LeakError, match=keys[7]):
        report.raise_if_leaking()


def test_leak_check_does_not_match_inside_longer_words() -> None:
    assert leak_check(["kamirel dola", "112 340"], ["kamir", "12 34"]).clean
    with pytest.raises(ValueError, match="holds no letter"):
        leak_check([], ["--"])
