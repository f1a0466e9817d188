"""Random records of a schema: values of a split, nested JSON, lookup.

A record is a tuple of (path, value) pairs; its order is part of it. How a record is put into words
is the business of `templates.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from missions.data.lexicon import COLORS, GENRES, JOBS, SECTORS, TLDS
from missions.data.names import sample_name
from missions.data.schemas import SCHEMAS, Field, Schema, SchemaName, get_schema
from missions.data.splits import Split

Value = str | int
_CLOSED: dict[str, tuple[str, ...]] = {
    "color": COLORS,
    "job": JOBS,
    "sector": SECTORS,
    "genre": GENRES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record: its schema's name and (path, value) pairs in the order they are told."""

    schema: SchemaName
    pairs: tuple[tuple[str, Value], ...]

    @property
    def key(self) -> str:
        """The name or title that identifies the record."""
        return str(self.value(get_schema(self.schema).key.path))

    def value(self, path: str) -> Value:
        """The value at `path`; ValueError names the paths that the record has."""
        for known, value in self.pairs:
            if known == path:
                return value
        raise ValueError(f"record has no field {path!r}; it has {', '.join(self.paths)}")

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the record, in its order."""
        return tuple(path for path, _ in self.pairs)

    def as_dict(self) -> dict[str, object]:
        """Nested dict in the record's order; a dotted path becomes an inner dict."""
        out: dict[str, object] = {}
        for path, value in self.pairs:
            outer, _, inner = path.partition(".")
            if not inner:
                out[outer] = value
                continue
            node = out.setdefault(outer, {})
            assert isinstance(node, dict)
            node[inner] = value
        return out

    def to_json(self) -> str:
        """Compact JSON of `as_dict`."""
        return json.dumps(self.as_dict(), separators=(",", ":"))

    def with_value(self, path: str, value: Value) -> Record:
        """A copy with one value replaced (stale indexes, swapped facts)."""
        self.value(path)
        pairs = tuple((known, value if known == path else old) for known, old in self.pairs)
        return replace(self, pairs=pairs)

    def names(self) -> tuple[str, ...]:
        """Every invented name in the record, those inside e-mail addresses included."""
        schema = get_schema(self.schema)
        found: dict[str, None] = {}
        for path, value in self.pairs:
            kind = schema.field(path).kind
            if kind == "name":
                found.setdefault(str(value))
            elif kind == "mail":
                user, _, host = str(value).partition("@")
                found.setdefault(user)
                found.setdefault(host.partition(".")[0])
        return tuple(found)


def sample_mail(rng: np.random.Generator, split: Split, user: str | None = None) -> str:
    """An e-mail address of two names of the split (`user` fixes the first)."""
    left = sample_name(rng, split) if user is None else user
    return f"{left}@{sample_name(rng, split)}.{TLDS[int(rng.integers(len(TLDS)))]}"


def sample_date(rng: np.random.Generator) -> str:
    """An ISO date between 1990-01-01 and 2039-12-28."""
    year, month, day = rng.integers((1990, 1, 1), (2040, 13, 29))
    return f"{year}-{month:02d}-{day:02d}"


def sample_value(rng: np.random.Generator, split: Split, field: Field) -> Value:
    """A value for `field`; names and e-mail addresses are of the split."""
    if field.kind == "name":
        return sample_name(rng, split)
    if field.kind == "mail":
        return sample_mail(rng, split)
    if field.kind == "date":
        return sample_date(rng)
    if field.kind == "year":
        return int(rng.integers(1900, 2040))
    if field.kind == "number":
        return int(rng.integers(1, field.high))
    pool = _CLOSED[field.kind]
    return pool[int(rng.integers(len(pool)))]


def sample_schema(rng: np.random.Generator) -> Schema:
    """One of the five schemas, uniformly."""
    schemas = tuple(SCHEMAS.values())
    return schemas[int(rng.integers(len(schemas)))]


def sample_record(
    rng: np.random.Generator,
    split: Split,
    *,
    schema: str | None = None,
    num_fields: tuple[int, int] = (3, 8),
    require: Sequence[str] = (),
    key: str | None = None,
    shuffle: bool = False,
) -> Record:
    """Draw a record whose names all belong to `split`.

    Args:
        rng: source of every draw.
        split: which names may occur.
        schema: schema name; drawn when None.
        num_fields: least and greatest number of fields, both inclusive, the key among them.
        require: paths that the record must have.
        key: fixes the record's key.
        shuffle: tell the fields after the key in random order (the parts of a nested field stay
            together); else in the schema's order.
    """
    chosen = sample_schema(rng) if schema is None else get_schema(schema)
    low, high = num_fields
    if not 1 <= low <= high <= len(chosen.fields):
        raise ValueError(
            f"num_fields {num_fields} must lie in 1..{len(chosen.fields)} for {chosen.name!r}"
        )
    must = {chosen.key.path, *(chosen.field(path).path for path in require)}
    optional = [field.path for field in chosen.fields if field.path not in must]
    extra = max(0, int(rng.integers(low, high + 1)) - len(must))
    take = {optional[int(i)] for i in rng.permutation(len(optional))[:extra]} | must
    fields = [field for field in chosen.fields if field.path in take]
    if shuffle:
        groups: dict[str, list[Field]] = {}
        for field in fields[1:]:
            groups.setdefault(field.path.partition(".")[0], []).append(field)
        parts = list(groups.values())
        fields = fields[:1]
        for i in rng.permutation(len(parts)):
            fields.extend(parts[int(i)])
    pairs: list[tuple[str, Value]] = []
    for field in fields:
        if field is chosen.key and key is not None:
            pairs.append((field.path, key))
        else:
            pairs.append((field.path, sample_value(rng, split, field)))
    return Record(schema=chosen.name, pairs=tuple(pairs))
