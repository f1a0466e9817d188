"""The closed word lists of the generated world: values, topic words, tags.

Plain data. Invented names (`names.py`) avoid every word in here, so that a word is either of the
closed vocabulary or a name, never both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLORS = ("red", "blue", "green", "black", "white", "gold")
JOBS = ("nurse", "cook", "pilot", "judge", "clerk", "coach", "guide", "smith")
SECTORS = ("food", "steel", "cloth", "media", "trade", "solar")
GENRES = ("drama", "crime", "travel", "poetry", "comic", "essay")
TLDS = ("com", "org", "net")
TOPICS = ("technology", "science", "business", "health", "environment")


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicWords:
    """Words that only one topic uses: its verbs and objects."""

    verbs: tuple[str, ...]
    objects: tuple[str, ...]


TOPIC_WORDS: Mapping[str, TopicWords] = {
    "technology": TopicWords(
        verbs=("built", "coded"), objects=("chip", "robot", "laptop", "sensor", "phone")
    ),
    "science": TopicWords(
        verbs=("proved", "tested"), objects=("theory", "atom", "comet", "fossil", "laser")
    ),
    "business": TopicWords(
        verbs=("bought", "sold"), objects=("bank", "brand", "shop", "market", "fund")
    ),
    "health": TopicWords(
        verbs=("cured", "treated"), objects=("fever", "cough", "allergy", "wound", "virus")
    ),
    "environment": TopicWords(
        verbs=("cleaned", "saved"), objects=("river", "forest", "lake", "reef", "meadow")
    ),
}

DETAIL_SENTENCES = (
    "the cost was {number} million",
    "work began in {name}",
    "{name} was glad",
    "it took {number} days",
    "the team had {number} people",
    "news came from {name}",
    "no one else was there",
    "the plan is not over",
    "{name} asked for more",
    "it was the first of {number}",
)

TAGS: Mapping[str, tuple[str, ...]] = {
    "copy": ("copy", "echo", "say"),
    "get": ("get", "find", "show"),
    "json": ("json", "pack"),
    "sum": ("sum", "brief"),
    "add": ("add", "plus"),
    "more": ("more", "next"),
    "sort": ("sort", "order"),
    "fact": ("fact", "recall"),
    "large": ("max", "top"),
    "small": ("min", "low"),
    "first": ("first",),
    "last": ("last",),
    "flip": ("flip",),
}


def closed_words() -> frozenset[str]:
    """Every word that a name must not equal."""
    words: set[str] = {*COLORS, *JOBS, *SECTORS, *GENRES, *TLDS, *TOPICS}
    for topic in TOPIC_WORDS.values():
        words.update(topic.verbs, topic.objects)
    for sentence in DETAIL_SENTENCES:
        words.update(sentence.replace("{", " ").replace("}", " ").split())
    for tag, synonyms in TAGS.items():
        words.update((tag, *synonyms))
    return frozenset(words)
