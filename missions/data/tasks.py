"""The base model's skills as items (prompt, target): one generator a skill, over every split.

These are what the bundled base is trained on and measured on; missions bend them (another format, a
policy, a rule). An item never says how it is scored. The names of an item and its operand pair
belong to the split that it was drawn for, so items of test share neither with a training stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from missions.data.names import reserved_names, sample_name, sample_names
from missions.data.records import sample_date, sample_mail, sample_record, sample_value
from missions.data.schemas import NUMERIC_KINDS, SCHEMAS
from missions.data.splits import Split, operand_key, sample_operands
from missions.data.templates import (
    CANONICAL,
    Style,
    render_entity,
    render_facts,
    render_json,
    sample_article,
    sample_style,
    sample_tag,
)

NUM_CLOSED_BOOK_FACTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskItem:
    """One item. `prompt` closes with a newline, `target` follows it; both are plain text.

    `keys` are what was held out for it: its names, or its operand pair (`"12 34"`).
    """

    skill: str
    prompt: str
    target: str
    keys: tuple[str, ...] = ()


SkillSampler = Callable[[np.random.Generator, Split, Style], TaskItem]


def copy_name(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`copy: kamir` -> `kamir`."""
    name = sample_name(rng, split)
    prompt = style.prompt(sample_tag(rng, "copy"), name)
    return TaskItem(skill="copy_name", prompt=prompt, target=name, keys=(name,))


def copy_list(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`copy: kamir; dola; tusen` -> the same text (2 to 5 names)."""
    names = sample_names(rng, split, int(rng.integers(2, 6)))
    body = style.listing(names)
    prompt = style.prompt(sample_tag(rng, "copy"), body)
    return TaskItem(skill="copy_list", prompt=prompt, target=body, keys=names)


def copy_value(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """Copy an e-mail address, an ISO date or a number of 1 to 6 digits."""
    kind = int(rng.integers(3))
    keys: tuple[str, ...] = ()
    if kind == 0:
        user = sample_name(rng, split)
        text = sample_mail(rng, split, user)
        keys = (user, text.partition("@")[2].partition(".")[0])
    elif kind == 1:
        text = sample_date(rng)
    else:
        text = str(int(rng.integers(0, 10 ** int(rng.integers(1, 7)))))
    prompt = style.prompt(sample_tag(rng, "copy"), text)
    return TaskItem(skill="copy_value", prompt=prompt, target=text, keys=keys)


def lookup(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`get age: name kamir; age 34; job cook` -> `34`."""
    record = sample_record(rng, split, num_fields=(3, 6), shuffle=True)
    path, value = record.pairs[int(rng.integers(len(record.pairs)))]
    prompt = style.prompt(f"{sample_tag(rng, 'get')} {path}", render_facts(record, style))
    return TaskItem(skill="lookup", prompt=prompt, target=str(value), keys=record.names())


def retrieve(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`get age kamir: dola age 12 job cook; kamir age 34 job nurse` -> `34` (2 to 4 records)."""
    schema = tuple(SCHEMAS.values())[int(rng.integers(len(SCHEMAS)))]
    asked = schema.fields[1 + int(rng.integers(len(schema.fields) - 1))].path
    count = int(rng.integers(2, 5))
    records = [
        sample_record(
            rng,
            split,
            schema=schema.name,
            num_fields=(2, 3),
            require=(asked,),
            key=key,
            shuffle=True,
        )
        for key in sample_names(rng, split, count)
    ]
    wanted = records[int(rng.integers(count))]
    body = style.listing(render_entity(record, style) for record in records)
    prompt = style.prompt(f"{sample_tag(rng, 'get')} {asked} {wanted.key}", body)
    keys = tuple(dict.fromkeys(name for record in records for name in record.names()))
    return TaskItem(skill="retrieve", prompt=prompt, target=str(wanted.value(asked)), keys=keys)


def retrieve_many(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`get age dola kamir: kamir age 34; tusen age 71; dola age 12` -> `12; 34`.

    Several keys of one list, in another order than they are told: 2 to 5 records, 2 or more asked.
    """
    schema = tuple(SCHEMAS.values())[int(rng.integers(len(SCHEMAS)))]
    field = schema.fields[1 + int(rng.integers(len(schema.fields) - 1))]
    names = sample_names(rng, split, int(rng.integers(2, 6)))
    values = [str(sample_value(rng, split, field)) for _ in names]
    asked = [int(i) for i in rng.permutation(len(names))[: int(rng.integers(2, len(names) + 1))]]
    body = style.listing(
        f"{name} {style.pair(field.path, value)}" for name, value in zip(names, values, strict=True)
    )
    keys = " ".join(names[i] for i in asked)
    return TaskItem(
        skill="retrieve_many",
        prompt=style.prompt(f"{sample_tag(rng, 'get')} {field.path} {keys}", body),
        target=style.listing(values[i] for i in asked),
        keys=names,
    )


def _order_tag(rng: np.random.Generator) -> tuple[str, bool]:
    """A tag for the larger or the smaller value, and whether it is the larger."""
    larger = bool(rng.integers(2))
    return sample_tag(rng, "large" if larger else "small"), larger


def compare(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`max: 34; 71` -> `71`; `min` asks for the smaller. The operand pair is of the split."""
    tag, larger = _order_tag(rng)
    high = 100 if rng.integers(4) else 10
    a, b = sample_operands(rng, split, high=high, distinct=True)
    prompt = style.prompt(tag, style.listing((str(a), str(b))))
    target = str(max(a, b) if larger else min(a, b))
    return TaskItem(skill="compare", prompt=prompt, target=target, keys=(operand_key(a, b),))


def compare_named(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`max age: kamir age 34; dola age 71` -> `dola`."""
    tag, larger = _order_tag(rng)
    schema = tuple(SCHEMAS.values())[int(rng.integers(len(SCHEMAS)))]
    paths = [field.path for field in schema.fields if field.kind in NUMERIC_KINDS]
    path = paths[int(rng.integers(len(paths)))]
    a, b = sample_operands(rng, split, distinct=True)
    left, right = sample_names(rng, split, 2)
    body = style.listing((f"{left} {style.pair(path, a)}", f"{right} {style.pair(path, b)}"))
    target = left if (a > b) == larger else right
    return TaskItem(
        skill="compare_named",
        prompt=style.prompt(f"{tag} {path}", body),
        target=target,
        keys=(left, right, operand_key(a, b)),
    )


def add(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`add: 34; 17` -> `51`: two numbers below 100."""
    high = 100 if rng.integers(4) else 10
    a, b = sample_operands(rng, split, high=high)
    prompt = style.prompt(sample_tag(rng, "add"), style.listing((str(a), str(b))))
    return TaskItem(skill="add", prompt=prompt, target=str(a + b), keys=(operand_key(a, b),))


def sort_numbers(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`sort: 34; 7; 51` -> `7; 34; 51`; the two smallest are an operand pair of the split."""
    values: tuple[int, ...] = ()
    while len(set(values)) < 3:
        a, b = sample_operands(rng, split, high=99, distinct=True)
        values = (a, b, int(rng.integers(max(a, b) + 1, 101)))
    shown = [values[int(i)] for i in rng.permutation(3)]
    prompt = style.prompt(sample_tag(rng, "sort"), style.listing(map(str, shown)))
    target = style.listing(map(str, sorted(values)))
    key = operand_key(values[0], values[1])
    return TaskItem(skill="sort_numbers", prompt=prompt, target=target, keys=(key,))


def sort_names(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`sort: tusen; dola; kamir` -> `dola; kamir; tusen`: three names in alphabetical order."""
    names = sample_names(rng, split, 3)
    prompt = style.prompt(sample_tag(rng, "sort"), style.listing(names))
    return TaskItem(
        skill="sort_names", prompt=prompt, target=style.listing(sorted(names)), keys=names
    )


def json_record(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`json person: name kamir; age 34; home.city dola` -> compact nested JSON."""
    record = sample_record(rng, split, num_fields=(3, 8), shuffle=True)
    prompt = style.prompt(f"{sample_tag(rng, 'json')} {record.schema}", render_facts(record, style))
    return TaskItem(skill="json", prompt=prompt, target=render_json(record), keys=record.names())


def summarise(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`sum: <4-5 sentences>` -> `technology: kamir built a chip`."""
    article = sample_article(rng, split)
    prompt = style.prompt(sample_tag(rng, "sum"), article.source)
    return TaskItem(skill="summary", prompt=prompt, target=article.summary, keys=article.names)


def induction(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`more: kamir; dola; tusen; kamir` -> `dola; tusen`: go on with a repeated sequence."""
    names = sample_names(rng, split, int(rng.integers(3, 7)))
    shown = int(rng.integers(1, len(names) - 1))
    prompt = style.prompt(sample_tag(rng, "more"), style.listing((*names, *names[:shown])))
    return TaskItem(
        skill="induction", prompt=prompt, target=style.listing(names[shown:]), keys=names
    )


def follow_tag(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """One body, three tags: `first`, `last`, `flip` over 2 to 4 names."""
    names = sample_names(rng, split, int(rng.integers(2, 5)))
    tag = ("first", "last", "flip")[int(rng.integers(3))]
    targets = {"first": names[0], "last": names[-1], "flip": style.listing(reversed(names))}
    prompt = style.prompt(tag, style.listing(names))
    return TaskItem(skill="tag", prompt=prompt, target=targets[tag], keys=names)


@cache
def closed_book_facts() -> Mapping[str, str]:
    """The 200 fixed associations: reserved name -> one of 50 reserved names.

    Training content by purpose, so the same in every split: a measure of what the weights remember.
    """
    names = reserved_names()
    keys, values = names[:NUM_CLOSED_BOOK_FACTS], names[NUM_CLOSED_BOOK_FACTS:]
    rng = np.random.default_rng(20_250_101)
    drawn = rng.integers(len(values), size=len(keys))
    return {key: values[int(i)] for key, i in zip(keys, drawn, strict=True)}


def closed_book(rng: np.random.Generator, split: Split, style: Style = CANONICAL) -> TaskItem:
    """`fact: kamir` -> its fixed associate; nothing in the prompt tells it."""
    facts = tuple(closed_book_facts().items())
    key, value = facts[int(rng.integers(len(facts)))]
    return closed_book_item(key, value, style, tag=sample_tag(rng, "fact"))


def closed_book_item(
    key: str, value: str, style: Style = CANONICAL, *, tag: str = "fact"
) -> TaskItem:
    """The item of one association (LKR checks go through all 200)."""
    return TaskItem(skill="closed_book", prompt=style.prompt(tag, key), target=value)


SKILLS: Mapping[str, SkillSampler] = {
    "copy_name": copy_name,
    "copy_list": copy_list,
    "copy_value": copy_value,
    "lookup": lookup,
    "retrieve": retrieve,
    "retrieve_many": retrieve_many,
    "compare": compare,
    "compare_named": compare_named,
    "add": add,
    "sort_numbers": sort_numbers,
    "sort_names": sort_names,
    "json": json_record,
    "summary": summarise,
    "induction": induction,
    "tag": follow_tag,
    "closed_book": closed_book,
}


def sample_item(
    rng: np.random.Generator,
    split: Split,
    skill: str,
    *,
    style: Style | None = None,
    style_split: Split = "train",
) -> TaskItem:
    """One item of `skill`; without `style`, a surface form of `style_split` is drawn."""
    if skill not in SKILLS:
        raise ValueError(f"unknown skill {skill!r}; known: {', '.join(SKILLS)}")
    chosen = sample_style(rng, style_split) if style is None else style
    return SKILLS[skill](rng, split, chosen)


def stream(
    rng: np.random.Generator, split: Split, weights: Mapping[str, float]
) -> Iterator[TaskItem]:
    """Endless items of a skill mixture; `weights` need not sum to one."""
    skills = tuple(weights)
    unknown = [skill for skill in skills if skill not in SKILLS]
    if unknown:
        raise ValueError(f"unknown skills {unknown}; known: {', '.join(SKILLS)}")
    p = np.array([weights[skill] for skill in skills], dtype=np.float64)
    edges = np.cumsum(p / p.sum())
    while True:
        index = min(int(np.searchsorted(edges, rng.random(), side="right")), len(skills) - 1)
        yield sample_item(rng, split, skills[index])
