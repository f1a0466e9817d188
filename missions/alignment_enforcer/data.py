"""Items of mission C: attacks, benign look-alikes and plain tasks, and their files.

Names and wrappers belong to one split each, by hash. Attacks and look-alikes are put in the same
wrappers, so a wrapper says nothing about whether to refuse. An item's cluster is its wrapper
(plain tasks are dealt into as many groups as there are wrappers), and all clusters of a kind hold
equally many items. Knows no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from missions.alignment_enforcer.checks import words
from missions.alignment_enforcer.redteam import CATEGORIES, Request, Wrapper, requests, wrappers
from missions.data.names import sample_names
from missions.data.schemas import SCHEMAS
from missions.data.splits import Split, leak_check, split_choices
from missions.data.tasks import sample_item
from missions.data.templates import CANONICAL
from missions.errors import SpecError
from missions.seeding import numpy_generator
from missions.spec import ExamplesConfig

Label = Literal["attack", "lookalike", "plain"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
PLAIN_SKILLS = ("lookup", "compare_named", "copy_name", "copy_list", "tag", "compare")
#: Attacks : look-alikes : plain tasks = 2 : 1 : 1, five categories, so counts come in twenties.
UNIT = 20
_NAME_SLOTS = (
    "owner", "item", "part1", "part2", "payload", "first", "second", "trait1", "trait2",
)  # fmt: skip
_WORD_SLOTS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("protected",): ("pin",),
    ("openfield",): ("zip",),
    ("banned",): ("red",),
    ("allowed",): ("blue", "gold"),
    ("numfield", "otherfield"): ("age", "size", "fee"),
    ("unfair",): ("race",),
    ("fair",): ("team",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetyItem:
    """One prompt with what a model without a policy answers."""

    id: str
    label: Label
    category: str
    """One of the five, or the plain task's skill."""
    request: str
    """Id of the request template; empty for plain tasks."""
    wrapper: str
    """Id of the wrapper; empty for plain tasks."""
    cluster: str
    prompt: str
    target: str
    forbidden: tuple[str, ...]
    keys: tuple[str, ...]
    """Names in the item, all of its split."""

    @property
    def benign(self) -> bool:
        return self.label != "attack"


def wrappers_of(split: Split) -> tuple[Wrapper, ...]:
    """The wrappers of a split, a fifth of every style for dev and test each, by hash."""
    chosen: list[Wrapper] = []
    for style in dict.fromkeys(wrapper.style for wrapper in wrappers()):
        by_template = {w.template: w for w in wrappers() if w.style == style}
        templates = split_choices(tuple(by_template), split, salt="safety-wrappers")
        chosen.extend(by_template[template] for template in templates)
    return tuple(sorted(chosen, key=lambda wrapper: wrapper.id))


@cache
def _suite_words() -> frozenset[str]:
    """Words of the suite's own text and field names: an invented name must not look like one."""
    texts = [wrapper.template for wrapper in wrappers()]
    texts += [" ".join((row.request, *row.context, row.target)) for row in requests()]
    texts += [" ".join(pool) for pool in _WORD_SLOTS.values()]
    texts += [field.path for schema in SCHEMAS.values() for field in schema.fields]
    return frozenset(word for text in texts for word in words(text))


def _names(rng: np.random.Generator, split: Split) -> tuple[str, ...]:
    while True:
        names = sample_names(rng, split, len(_NAME_SLOTS))
        if not _suite_words().intersection(names):
            return names


def fill(
    request: Request, wrapper: Wrapper, split: Split, rng: np.random.Generator
) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """(prompt, target, forbidden, names) of one draw of a request in a wrapper."""
    text = " ".join((request.request, *request.context))
    names = dict(zip(_NAME_SLOTS, _names(rng, split), strict=True))
    slots = dict(names)
    for group, pool in _WORD_SLOTS.items():
        picks = rng.permutation(len(pool))[: len(group)]
        slots.update({slot: pool[int(i)] for slot, i in zip(group, picks, strict=True)})
    secrets = rng.choice(np.arange(1000, 10_000), size=2, replace=False)
    numbers = rng.choice(np.arange(10, 100), size=3, replace=False)
    slots.update(secret=str(secrets[0]), open=str(secrets[1]))
    slots.update(zip(("value", "value2", "claim"), map(str, numbers), strict=True))
    order = rng.permutation(len(request.context))
    context = "; ".join(request.context[int(i)].format_map(slots) for i in order)
    used = tuple(names[slot] for slot in _NAME_SLOTS if f"{{{slot}}}" in text)
    return (
        wrapper.wrap(request.request.format_map(slots), context),
        request.target.format_map(slots),
        tuple(part.format_map(slots) for part in request.forbidden),
        used,
    )


def make_items(split: Split, count: int, data_seed: int) -> tuple[SafetyItem, ...]:
    """`count` items: half attacks, a quarter look-alikes, a quarter plain tasks.

    Raises:
        SpecError: `count` is not a multiple of twenty.
    """
    if count % UNIT:
        raise SpecError(f"examples.{split}: {count} is not a multiple of {UNIT} (five categories).")
    pool = wrappers_of(split)
    items: list[SafetyItem] = []
    sizes: tuple[tuple[Label, int], ...] = (("attack", count // 10), ("lookalike", count // 20))
    for label, each in sizes:
        for category in CATEGORIES:
            rng = numpy_generator(data_seed, split, label, category)
            kinds = [r for r in requests() if (r.category, r.label) == (category, label)]
            deal = rng.permutation(len(pool))
            for index in range(each):
                request = kinds[index // len(pool) % len(kinds)]
                wrapper = pool[int(deal[index % len(pool)])]
                prompt, target, forbidden, keys = fill(request, wrapper, split, rng)
                items.append(
                    SafetyItem(
                        id=f"{split}-{label}-{category}-{index:04d}",
                        label=label,
                        category=category,
                        request=request.id,
                        wrapper=wrapper.id,
                        cluster=wrapper.id,
                        prompt=prompt,
                        target=target,
                        forbidden=forbidden,
                        keys=keys,
                    )
                )
    return (*items, *_plain_items(split, count // 4, data_seed, len(pool)))


def _plain_items(split: Split, count: int, data_seed: int, groups: int) -> Iterable[SafetyItem]:
    rng = numpy_generator(data_seed, split, "plain")
    for index in range(count):
        skill = PLAIN_SKILLS[index % len(PLAIN_SKILLS)]
        item = sample_item(rng, split, skill, style=CANONICAL)
        while _suite_words().intersection(item.keys):
            item = sample_item(rng, split, skill, style=CANONICAL)
        yield SafetyItem(
            id=f"{split}-plain-{index:04d}",
            label="plain",
            category=skill,
            request="",
            wrapper="",
            cluster=f"plain-{index % groups:02d}",
            prompt=item.prompt,
            target=item.target,
            forbidden=(),
            keys=item.keys,
        )


def leaks(train: Sequence[SafetyItem], test: Sequence[SafetyItem]) -> dict[str, int]:
    """What of the test stands in training, by kind: names, wrappers, whole prompts.

    Operand pairs of plain tasks (`compare`, `compare_named`) are keys too and are looked for among
    the training items of those tasks only: elsewhere the same two numbers mean nothing.
    """
    texts = [item.prompt + item.target for item in train]
    names = {key for item in test for key in item.keys if not key[0].isdigit()}
    pairs = {key for item in test for key in item.keys if key[0].isdigit()}
    trained_pairs = {key for item in train for key in item.keys if key[0].isdigit()}
    prompts = {item.prompt for item in train}
    return {
        "names": len(leak_check(texts, names).leaks),
        "operands": len(pairs & trained_pairs),
        "wrappers": len(_templates(train) & _templates(test)),
        "prompts": sum(item.prompt in prompts for item in test),
    }


def _templates(items: Iterable[SafetyItem]) -> set[str]:
    by_id = {wrapper.id: wrapper.template for wrapper in wrappers()}
    return {by_id[item.wrapper] for item in items if item.wrapper}


def digest(items: Mapping[Split, Sequence[SafetyItem]]) -> str:
    """sha256 over the content of all splits."""
    sha = hashlib.sha256()
    for split in SPLITS:
        for item in items[split]:
            sha.update(json.dumps([split, asdict(item)], sort_keys=True).encode())
    return sha.hexdigest()


def write_split(folder: Path, split: str, items: Sequence[SafetyItem]) -> Path:
    """JSON lines, one an item, put in place in one move."""
    path = folder / f"{split}.jsonl"
    draft = path.with_suffix(".draft")
    draft.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items), encoding="utf-8")
    draft.replace(path)
    return path


def read_split(folder: Path, split: str) -> tuple[SafetyItem, ...]:
    """The items that `write_split` wrote."""
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        raise SpecError(f"{path}: no such file; run the mission's prepare step first.")
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return tuple(
        SafetyItem(**{**row, "forbidden": tuple(row["forbidden"]), "keys": tuple(row["keys"])})
        for row in rows
    )


def make_splits(examples: ExamplesConfig, data_seed: int) -> dict[Split, tuple[SafetyItem, ...]]:
    """All three splits."""
    counts = {"train": examples.train, "dev": examples.dev, "test": examples.test}
    return {split: make_items(split, counts[split], data_seed) for split in SPLITS}
