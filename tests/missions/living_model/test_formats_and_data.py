"""Generator of mission B: behaviours, injections, uniqueness, splits, leaks, digest."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from missions.data.names import names_of
from missions.living_model import data
from missions.living_model.data import Dataset, Item
from missions.living_model.formats import (
    BEHAVIOURS,
    CUED_DOMAIN,
    HOME,
    KNOWN_ORDERS,
    KNOWN_SEPARATORS,
    TOOLS,
    Format,
    Injection,
    known_formats,
    request,
)

INJECTIONS: dict[Injection, int] = {"signature": 100, "format": 200, "domain": 300}


def _dataset(seed: int = 5) -> Dataset:
    return data.make_dataset(
        seed,
        num_train=800,
        lengths={"dev": 200, "test": 600},
        injections=INJECTIONS,
        stay=0.3,
        num_canary=30,
        num_retention=40,
    )


DATASET = _dataset()


def test_rendering_by_hand() -> None:
    values = {"a": "kamir", "b": "red", "n": "34"}
    assert Format(order="nba", separator=" -> ").render(values) == "34 -> red -> kamir"
    assert request("send", values) == "send: kamir; red; 34\n"
    assert request("swap pipe", values, "nab") == "swap pipe: 34; kamir; red\n"


def test_known_changes_stand_in_the_initial_family_and_novel_ones_do_not() -> None:
    family = {(form.order, form.separator) for form in known_formats().values()}
    assert len(family) == len(KNOWN_ORDERS) * len(KNOWN_SEPARATORS)
    for tool in TOOLS:
        assert (tool.format.order, tool.format.separator) in family
        if tool.change is None:
            continue
        new = (tool.change.format.order, tool.change.format.separator)
        domain = tool.change.domain
        known = new in family and domain in (HOME, CUED_DOMAIN)
        assert known == (tool.change.novelty == "known")
        changed = new != (tool.format.order, tool.format.separator) or domain != HOME
        assert changed
    assert Counter(name.rpartition("_")[2] for name in BEHAVIOURS) == {"known": 3, "novel": 3}


def _expected(item: Item, at: int) -> str:
    """The right answer, parsed from the prompt by hand."""
    tag, _, body = item.prompt.rstrip("\n").partition(": ")
    parts = body.split("; ")
    number = next(part for part in parts if part.isdigit())
    a, b = (part for part in parts if not part.isdigit())
    tool = next((tool for tool in TOOLS if tool.word == tag), None)
    if tool is None:
        form = known_formats()[tag]
    elif tool.change is not None and at >= INJECTIONS[tool.change.injection]:
        form = tool.change.format
        if tool.change.novelty == "novel" and tool.change.injection == "domain":
            a, b = b, a  # the novel domain lists the second name first
    else:
        form = tool.format
    values = {"a": a, "b": b, "n": number}
    return form.separator.join(values[role] for role in form.order)


def test_every_answer_of_the_stream_is_right_at_its_time() -> None:
    for at, item in enumerate(DATASET.streams["test"]):
        assert item.target == _expected(item, at)
        assert item.target not in item.wrong
        start = INJECTIONS.get(item.part.partition("_")[0])  # type: ignore[call-overload]
        assert item.injected == (start is not None and at >= start)


def test_training_holds_no_change_and_all_tools_come_about_equally_often() -> None:
    assert not any(item.injected for item in DATASET.train)
    assert all(" -> " not in item.target for item in DATASET.train)
    counts = Counter(item.part for item in DATASET.streams["test"])
    assert set(counts) == {*BEHAVIOURS, "stable", "cued"}
    # Eight states; staying with probability .3 inflates the variance by (1 + .3) / (1 - .3).
    expected, sd = 600 / 8, (600 / 8 * 7 / 8 * 1.3 / 0.7) ** 0.5
    assert all(abs(count - expected) < 4 * sd for count in counts.values())


def test_names_belong_to_their_split() -> None:
    for split in ("dev", "test"):
        allowed = set(names_of(split))  # type: ignore[arg-type]
        assert all(set(item.names) <= allowed for item in DATASET.streams[split])
    assert all(set(item.names) <= set(names_of("dev")) for item in DATASET.canary)


def test_no_leak_and_planted_leaks_are_found() -> None:
    stream, retention = DATASET.streams["test"], DATASET.retention["test"]
    clean = data.leak_report(DATASET.train, DATASET.canary, (*stream, *retention))
    assert set(clean.values()) == {0}
    planted = dataclasses.replace(
        DATASET.train[0], prompt=f"send: {stream[7].names[0]}; dola; 34\n"
    )
    report = data.leak_report((planted, *DATASET.train), DATASET.canary, stream)
    assert report["test_names_in_training"] >= 1
    assert data.leak_report(DATASET.train, (), (*stream, stream[3]))["prompts_seen_twice"] == 1
    assert data.leak_report(DATASET.train, (stream[0],), stream)["test_prompts_in_training"] == 1


def test_digest_depends_on_content_only_and_files_come_back(tmp_path: Path) -> None:
    assert data.digest_of(_dataset()) == data.digest_of(DATASET)
    assert data.digest_of(_dataset(6)) != data.digest_of(DATASET)
    data.save(DATASET, tmp_path / "data.json")
    assert data.load(tmp_path / "data.json") == DATASET


@pytest.mark.parametrize("part", ["dev", "test"])
def test_prompts_are_unique_within_a_split(part: str) -> None:
    prompts = [i.prompt for i in (*DATASET.streams[part], *DATASET.retention[part])]
    assert len(set(prompts)) == len(prompts)
