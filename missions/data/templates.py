"""Surface forms: how a tag, facts and an answer marker are put into words.

A prompt is one line of tag and body (in one form body and tag) that closes with a newline; the
answer follows the newline. The tokenizer isolates newlines, so tokens(prompt) + tokens(answer) =
tokens(prompt + answer) for every style. Surface forms are split by hash like names: the base model
sees those of train only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from missions.data.lexicon import DETAIL_SENTENCES, TAGS, TOPIC_WORDS, TOPICS
from missions.data.names import sample_name
from missions.data.records import Record, Value
from missions.data.splits import Split, split_choices

TAG_FORMS = (
    "{tag}: {body}",
    "[{tag}] {body}",
    "{tag} | {body}",
    "{tag} {body}",
    "# {tag} # {body}",
    "{body} | {tag}",
)
JOINS = (" ", "=", ": ", " is ", " -> ")
SEPARATORS = ("; ", ", ", " | ", " / ", ". ")
ENDS = ("\n", " =\n", " ->\n", "?\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """One surface form. `end` must close with a newline: it marks where the answer begins."""

    tag_form: str = "{tag}: {body}"
    join: str = " "
    separator: str = "; "
    end: str = "\n"

    def __post_init__(self) -> None:
        if not self.end.endswith("\n"):
            raise ValueError(f"style end {self.end!r} must close with a newline")

    def prompt(self, tag: str, body: str) -> str:
        """The prompt of `tag` over `body`."""
        return self.tag_form.replace("{tag}", tag).replace("{body}", body) + self.end

    def pair(self, path: str, value: Value) -> str:
        """One fact, such as `age 34`."""
        return f"{path}{self.join}{value}"

    def listing(self, parts: Iterable[str]) -> str:
        """Parts joined by the style's separator."""
        return self.separator.join(parts)


CANONICAL = Style()


@cache
def styles_of(split: Split) -> tuple[Style, ...]:
    """The surface forms of a split; the canonical one always belongs to train."""
    every = tuple(
        Style(tag_form=tag_form, join=join, separator=separator, end=end)
        for tag_form, join, separator, end in itertools.product(TAG_FORMS, JOINS, SEPARATORS, ENDS)
        if Style(tag_form=tag_form, join=join, separator=separator, end=end) != CANONICAL
    )
    chosen = split_choices(every, split, salt="styles")
    return (CANONICAL, *chosen) if split == "train" else chosen


def sample_style(rng: np.random.Generator, split: Split = "train") -> Style:
    """One surface form of the split, uniformly."""
    pool = styles_of(split)
    return pool[int(rng.integers(len(pool)))]


def sample_tag(rng: np.random.Generator, tag: str) -> str:
    """One of the synonyms of `tag`."""
    words = TAGS[tag]
    return words[int(rng.integers(len(words)))]


def render_facts(record: Record, style: Style = CANONICAL, *, paths: Sequence[str] = ()) -> str:
    """The record as `name kamir; age 34; home.city dola`; `paths` keeps some fields only."""
    wanted = paths or record.paths
    return style.listing(style.pair(path, record.value(path)) for path in wanted)


def render_entity(record: Record, style: Style = CANONICAL) -> str:
    """The record with its key first and bare: `kamir age 34 job cook`, for lists of records."""
    inner = [style.pair(path, value) for path, value in record.pairs if str(value) != record.key]
    return " ".join((record.key, *inner))


def render_json(record: Record) -> str:
    """The record as compact nested JSON."""
    return record.to_json()


@dataclass(frozen=True, kw_only=True, slots=True)
class Article:
    """A source text of one topic with its summary and the names in it."""

    topic: str
    source: str
    summary: str
    names: tuple[str, ...]


def sample_article(
    rng: np.random.Generator,
    split: Split,
    *,
    topic: str | None = None,
    num_sentences: tuple[int, int] = (4, 5),
) -> Article:
    """Draw a source whose headline facts are the only sentences with a topic's verb.

    One sentence in four is a headline fact (`kamir built a chip in dola`); the rest are details.
    The summary is the topic and the headline facts without their places, in order: about a quarter
    of the source. 4-5 sentences give about 110 characters, for the tiny model; 8-36 give 200-1,000.
    """
    chosen = TOPICS[int(rng.integers(len(TOPICS)))] if topic is None else topic
    if chosen not in TOPIC_WORDS:
        raise ValueError(f"unknown topic {chosen!r}; known: {', '.join(TOPICS)}")
    words = TOPIC_WORDS[chosen]
    total = int(rng.integers(num_sentences[0], num_sentences[1] + 1))
    heads = {int(i) for i in rng.permutation(total)[: max(1, total // 4)]}
    sentences: list[str] = []
    summary: list[str] = []
    names: list[str] = []
    for position in range(total):
        name = sample_name(rng, split)
        names.append(name)
        if position in heads:
            verb = words.verbs[int(rng.integers(len(words.verbs)))]
            thing = words.objects[int(rng.integers(len(words.objects)))]
            place = sample_name(rng, split)
            names.append(place)
            sentences.append(f"{name} {verb} a {thing} in {place}")
            summary.append(f"{name} {verb} a {thing}")
        else:
            detail = DETAIL_SENTENCES[int(rng.integers(len(DETAIL_SENTENCES)))]
            number = str(int(rng.integers(2, 100)))
            sentences.append(detail.replace("{name}", name).replace("{number}", number))
    source = ". ".join(sentences) + "."
    used = tuple(dict.fromkeys(name for name in names if name in source))
    return Article(
        topic=chosen, source=source, summary=f"{chosen}: {'. '.join(summary)}", names=used
    )
