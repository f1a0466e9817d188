"""Entities of a split and the one-entity records that the index holds of them.

An entity has a name, a number below 100 and two words or names; the index holds one record for each
of these facts (`kamir age 34`). A stated share of the entities is *stale*: the index holds an old
version of them, with every value changed. It knows nothing of queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from missions.data.names import sample_names
from missions.data.records import Record, sample_record, sample_value
from missions.data.schemas import SchemaName, get_schema
from missions.data.splits import Split

NUMBER_FIELDS: Mapping[SchemaName, tuple[str, ...]] = {
    "person": ("age",),
    "product": ("stock",),
    "event": ("fee",),
    "book": ("price",),
}
WORD_FIELDS: Mapping[SchemaName, tuple[str, ...]] = {
    "person": ("job", "boss", "home.city"),
    "product": ("color", "maker"),
    "event": ("city", "host", "hall"),
    "book": ("author", "genre", "press.city"),
}
WORDS_PER_ENTITY = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity:
    """What is true of an entity, and what the index says of it."""

    truth: Record
    indexed: Record

    @property
    def stale(self) -> bool:
        """Whether the index is out of date."""
        return self.truth != self.indexed

    @property
    def key(self) -> str:
        """The entity's name."""
        return self.truth.key

    @property
    def number_path(self) -> str:
        """The path of its number."""
        return NUMBER_FIELDS[self.truth.schema][0]

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths beside the key, in the record's order."""
        return self.truth.paths[1:]


def sample_entities(
    rng: np.random.Generator, split: Split, count: int, stale_share: float
) -> tuple[Entity, ...]:
    """`count` entities with distinct names of `split`; the first ones are stale."""
    schemas = tuple(NUMBER_FIELDS)
    num_stale = round(count * stale_share)
    entities = []
    for position, key in enumerate(sample_names(rng, split, count)):
        schema = schemas[position % len(schemas)]
        words = WORD_FIELDS[schema]
        chosen = [words[int(i)] for i in rng.permutation(len(words))[:WORDS_PER_ENTITY]]
        truth = sample_record(
            rng,
            split,
            schema=schema,
            num_fields=(1, 1),
            require=(*NUMBER_FIELDS[schema], *chosen),
            key=key,
            shuffle=True,
        )
        indexed = _outdated(rng, split, truth) if position < num_stale else truth
        entities.append(Entity(truth=truth, indexed=indexed))
    return tuple(entities)


def index_texts(entity: Entity) -> tuple[str, ...]:
    """The records that the index holds: `kamir age 34`, `kamir job cook`, `kamir boss dola`."""
    return tuple(facts_text(entity.indexed, (path,)) for path in entity.paths)


def facts_text(record: Record, paths: tuple[str, ...]) -> str:
    """The name and some of the fields: `kamir age 34`."""
    return " ".join((record.key, *(f"{path} {record.value(path)}" for path in paths)))


def _outdated(rng: np.random.Generator, split: Split, truth: Record) -> Record:
    old = truth
    for path in truth.paths[1:]:
        field = get_schema(truth.schema).field(path)
        value = truth.value(path)
        while value == truth.value(path):
            value = sample_value(rng, split, field)
        old = old.with_value(path, value)
    return old
