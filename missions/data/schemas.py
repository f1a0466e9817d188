"""The five record schemas of the generated world: person, product, event, company, book.

A schema is an ordered list of typed fields; a dotted path is a nested field. The first field is
the record's key (a name). Nothing here draws values: see `records.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FieldKind = Literal["name", "mail", "date", "year", "number", "color", "job", "sector", "genre"]
NUMERIC_KINDS: frozenset[str] = frozenset({"year", "number"})
SchemaName = Literal["person", "product", "event", "company", "book"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field. `high` bounds a number (exclusive); `path` may be dotted once (`home.city`)."""

    path: str
    kind: FieldKind
    high: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """An ordered set of fields; the first is the key."""

    name: SchemaName
    fields: tuple[Field, ...]

    @property
    def key(self) -> Field:
        """The field that identifies a record."""
        return self.fields[0]

    def field(self, path: str) -> Field:
        """The field at `path`; ValueError names the known ones."""
        for field in self.fields:
            if field.path == path:
                return field
        known = ", ".join(field.path for field in self.fields)
        raise ValueError(f"schema {self.name!r} has no field {path!r}; known: {known}")


def _schema(
    name: SchemaName, *fields: tuple[str, FieldKind] | tuple[str, FieldKind, int]
) -> Schema:
    return Schema(
        name=name,
        fields=tuple(
            Field(path=entry[0], kind=entry[1], high=entry[2] if len(entry) == 3 else 100)
            for entry in fields
        ),
    )


SCHEMAS: Mapping[SchemaName, Schema] = {
    "person": _schema(
        "person",
        ("name", "name"),
        ("age", "number"),
        ("job", "job"),
        ("mail", "mail"),
        ("born", "date"),
        ("home.city", "name"),
        ("home.zip", "number", 10_000),
        ("boss", "name"),
    ),
    "product": _schema(
        "product",
        ("name", "name"),
        ("price", "number", 1_000),
        ("stock", "number"),
        ("color", "color"),
        ("maker", "name"),
        ("size.wide", "number"),
        ("size.high", "number"),
        ("made", "date"),
    ),
    "event": _schema(
        "event",
        ("name", "name"),
        ("date", "date"),
        ("city", "name"),
        ("host", "name"),
        ("seats", "number", 1_000),
        ("fee", "number"),
        ("mail", "mail"),
        ("hall", "name"),
    ),
    "company": _schema(
        "company",
        ("name", "name"),
        ("boss", "name"),
        ("staff", "number", 1_000),
        ("sector", "sector"),
        ("year", "year"),
        ("mail", "mail"),
        ("base.city", "name"),
        ("base.zip", "number", 10_000),
    ),
    "book": _schema(
        "book",
        ("title", "name"),
        ("author", "name"),
        ("year", "year"),
        ("pages", "number", 1_000),
        ("genre", "genre"),
        ("price", "number"),
        ("press.name", "name"),
        ("press.city", "name"),
    ),
}


def get_schema(name: str) -> Schema:
    """The schema called `name`; ValueError names the five."""
    for known, schema in SCHEMAS.items():
        if known == name:
            return schema
    raise ValueError(f"unknown schema {name!r}; known: {', '.join(SCHEMAS)}")


def field_words() -> frozenset[str]:
    """Every word of a schema's name or of a field's path."""
    words: set[str] = set(SCHEMAS)
    for schema in SCHEMAS.values():
        for field in schema.fields:
            words.update(field.path.split("."))
    return frozenset(words)
