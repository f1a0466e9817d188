"""Data of mission B: the initial family, the stream with its injections, canary and retention.

Everything is drawn from the data seed: the stream's prompts are the same for all seeds and arms.
What a training seed adds (feedback noise, replay) is not here. A prompt stands once in the stream,
so none is scored after it was learned from. It knows no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bem.data import Example
from missions.data.names import sample_names
from missions.data.splits import Split, leak_check
from missions.living_model.formats import (
    CUED_DOMAIN,
    HOME,
    TOOLS,
    Domain,
    Injection,
    known_formats,
    request,
)
from missions.seeding import numpy_generator

STABLE = "stable"
CUED = "cued"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A prompt with its right answer at its time."""

    id: str
    prompt: str
    target: str
    wrong: tuple[str, ...]
    """The same values in the other known formats: what a mistaken user would send back."""
    tag: str
    """Tool word, or the cue."""
    part: str
    """Behaviour under injection (`signature_known`), `stable` or `cued`."""
    injected: bool
    """True where the prompt comes after its tool's injection."""
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """All items of a mission's data."""

    train: tuple[Item, ...]
    streams: Mapping[str, tuple[Item, ...]]
    """Split -> stream."""
    canary: tuple[Item, ...]
    retention: Mapping[str, tuple[Item, ...]]
    """Split -> cued items and tools that no injection touches, asked at the stream's end."""


def to_examples(items: Sequence[Item]) -> list[Example]:
    """Items as bem's examples."""
    return [
        Example(prompt=item.prompt, target=item.target, id=item.id, cluster=item.part)
        for item in items
    ]


def _values(
    rng: np.random.Generator, split: Split, domain: Domain
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Role -> value, and the names among the values."""
    names = sample_names(rng, split, 1 if domain.words else 2)
    words = domain.words or names[1:]
    word = words[int(rng.integers(len(words)))]
    return {"a": names[0], "b": word, "n": str(int(rng.integers(10, 100)))}, names


def _item(
    rng: np.random.Generator,
    split: Split,
    item_id: str,
    tag: str,
    *,
    time_after: frozenset[Injection],
) -> Item:
    """One item of a tool (or of a cue, where `tag` is none), after these injections."""
    formats = known_formats()
    tool = next((tool for tool in TOOLS if tool.word == tag), None)
    injected = False
    if tool is None:
        domain = CUED_DOMAIN if rng.random() < 0.5 else HOME
        form, part = formats[tag], CUED
    else:
        form, domain, part = tool.format, HOME, tool.behaviour
        if tool.change is not None and tool.change.injection in time_after:
            form, domain, injected = tool.change.format, tool.change.domain, True
    values, names = _values(rng, split, domain)
    target = form.render(values)
    others = (other.render(values) for other in formats.values())
    return Item(
        id=item_id,
        prompt=request(tag, values, domain.layout),
        target=target,
        wrong=tuple(text for text in others if text != target),
        tag=tag,
        part=part,
        injected=injected,
        names=names,
    )


def _unique(items: Iterable[Item], count: int, taken: set[str]) -> tuple[Item, ...]:
    """The first `count` items whose prompt is not taken yet."""
    chosen: list[Item] = []
    for item in items:
        if item.prompt not in taken:
            taken.add(item.prompt)
            chosen.append(item)
            if len(chosen) == count:
                break
    return tuple(chosen)


def make_family(rng: np.random.Generator, split: Split, count: int, name: str) -> tuple[Item, ...]:
    """The initial family: half cued formats (two domains), half tools with their first format."""
    cues = tuple(known_formats())
    words = tuple(tool.word for tool in TOOLS)

    def draws() -> Iterable[Item]:
        index = 0
        while True:
            pool = cues if index % 2 else words
            tag = pool[int(rng.integers(len(pool)))]
            yield _item(rng, split, f"{name}{index:05d}", tag, time_after=frozenset())
            index += 1

    return _unique(draws(), count, set())


def make_stream(
    rng: np.random.Generator,
    split: Split,
    length: int,
    injections: Mapping[Injection, int],
    stay: float,
    taken: set[str],
) -> tuple[Item, ...]:
    """A Markov mixture of the seven tools and of cued requests, eight states of equal weight.

    The state stays with probability `stay`, else it is drawn anew. From prompt number
    `injections[x]` on, injection x holds.
    """
    cues = tuple(known_formats())
    words = tuple(tool.word for tool in TOOLS)
    stream: list[Item] = []
    state = int(rng.integers(len(words) + 1))
    while len(stream) < length:
        if rng.random() >= stay:
            state = int(rng.integers(len(words) + 1))
        tag = words[state] if state < len(words) else cues[int(rng.integers(len(cues)))]
        at = len(stream)
        after = frozenset(name for name, start in injections.items() if at >= start)
        item = _item(rng, split, f"p{at:05d}", tag, time_after=after)
        if item.prompt not in taken:
            taken.add(item.prompt)
            stream.append(item)
    return tuple(stream)


def make_retention(
    rng: np.random.Generator, split: Split, count: int, name: str, taken: set[str]
) -> tuple[Item, ...]:
    """Cued requests and the tool that never changes."""
    tags = (*known_formats(), *(tool.word for tool in TOOLS if tool.change is None))

    def draws() -> Iterable[Item]:
        index = 0
        while True:
            tag = tags[int(rng.integers(len(tags)))]
            yield _item(rng, split, f"{name}{index:04d}", tag, time_after=frozenset())
            index += 1

    return _unique(draws(), count, taken)


def make_dataset(
    data_seed: int,
    *,
    num_train: int,
    lengths: Mapping[str, int],
    injections: Mapping[Injection, int],
    stay: float,
    num_canary: int,
    num_retention: int,
) -> Dataset:
    """All data of the mission; `lengths` is split -> prompts of the stream (dev and test)."""
    streams: dict[str, tuple[Item, ...]] = {}
    retention: dict[str, tuple[Item, ...]] = {}
    canary: tuple[Item, ...] = ()
    for split in ("dev", "test"):
        taken: set[str] = set()
        rng = numpy_generator(data_seed, "B", split)
        if split == "dev":
            canary = make_retention(rng, "dev", num_canary, "c", taken)
        retention[split] = make_retention(rng, split, num_retention, "r", taken)
        streams[split] = make_stream(rng, split, lengths[split], injections, stay, taken)
    train = make_family(numpy_generator(data_seed, "B", "train"), "train", num_train, "t")
    return Dataset(train=train, streams=streams, canary=canary, retention=retention)


def leak_report(
    train: Sequence[Item], canary: Sequence[Item], test: Sequence[Item]
) -> dict[str, int]:
    """Leaks by kind: test names in what is trained on before the stream, prompts that come twice.

    `test` is the stream together with the retention items. The stream itself is learned from, one
    prompt after it was scored: hence no prompt may come again.
    """
    texts = (item.prompt + item.target for item in (*train, *canary))
    names = leak_check(texts, (name for item in test for name in item.names))
    prompts = [item.prompt for item in test]
    early = {item.prompt for item in (*train, *canary)}
    return {
        "test_names_in_training": len(names.leaks),
        "prompts_seen_twice": len(prompts) - len(set(prompts)),
        "test_prompts_in_training": sum(prompt in early for prompt in prompts),
    }


def digest_of(dataset: Dataset) -> str:
    """sha256 of the content."""
    return hashlib.sha256(_dump(_document(dataset)).encode()).hexdigest()


def save(dataset: Dataset, path: Path) -> None:
    """Write one JSON file."""
    path.write_text(_dump(_document(dataset)), encoding="utf-8")


def load(path: Path) -> Dataset:
    """Read what `save` wrote."""
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    return Dataset(
        train=_items(document["train"]),
        streams={split: _items(rows) for split, rows in document["streams"].items()},
        canary=_items(document["canary"]),
        retention={split: _items(rows) for split, rows in document["retention"].items()},
    )


def _document(dataset: Dataset) -> dict[str, Any]:
    return {
        "train": [asdict(item) for item in dataset.train],
        "streams": {
            split: [asdict(item) for item in items] for split, items in dataset.streams.items()
        },
        "canary": [asdict(item) for item in dataset.canary],
        "retention": {
            split: [asdict(item) for item in items] for split, items in dataset.retention.items()
        },
    }


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _items(rows: Sequence[Mapping[str, Any]]) -> tuple[Item, ...]:
    return tuple(
        Item(**{**row, "wrong": tuple(row["wrong"]), "names": tuple(row["names"])}) for row in rows
    )
