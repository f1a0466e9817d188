"""Queries of the five types, with the answer and the chain of skills that leads to it.

    F     the prompt holds the fact that is asked for             -> format
    ReF   the prompt holds both facts; compare, add or sort them  -> reason, format
    RF    the fact stands in the index only                       -> retrieve, format
    RReF  two facts stand in the index (one perhaps in the prompt)-> retrieve, reason, format
    TRAP  as F or ReF, but the index is out of date: who retrieves is misled

The surface does not name the type: every prompt holds some facts, and which facts are missing is
to be found out by reading them. Operand pairs belong to the split, in whatever order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from missions.agentic_planner.records import Entity, facts_text
from missions.data.splits import Split, operand_key, operand_split
from missions.data.templates import CANONICAL, sample_tag

QueryKind = Literal["F", "ReF", "RF", "RReF", "TRAP"]
KINDS: tuple[QueryKind, ...] = get_args(QueryKind)
Operation = Literal["get", "max", "min", "add", "sort"]
TAG_OF: Mapping[Operation, str] = {
    "get": "get",
    "max": "large",
    "min": "small",
    "add": "add",
    "sort": "sort",
}
DISTRACTOR_SHARE = 0.5
"""How often a lookup's prompt also tells the asked field of another entity."""
PARTIAL_SHARE = 0.25
"""How often an RReF prompt already holds one of the two facts."""
MAX_DRAWS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One query. `chain` is the gold plan with what each skill writes: (skill letter, text)."""

    id: str
    kind: QueryKind
    operation: Operation
    prompt: str
    """One line that closes with a newline."""
    search: str
    """What the index is asked: the names, then the field."""
    keys: tuple[str, ...]
    """The entities that the query is about: one, or two."""
    path: str
    """The field that it asks of them."""
    answer: str
    """A compact JSON object with one member."""
    chain: tuple[tuple[str, str], ...]
    operands: str
    """The operand pair's key (`"12 34"`), empty for a lookup."""
    names: tuple[str, ...]
    """Every invented name in the query, its facts and its answer."""

    @property
    def head(self) -> str:
        """What the prompt asks, without its facts: `max age: `."""
        return self.prompt.partition(": ")[0] + ": "

    @property
    def facts(self) -> str:
        """What the prompt tells, without the question."""
        return self.prompt.partition(": ")[2].rstrip("\n")

    @property
    def plan(self) -> str:
        """The gold plan, such as `RF`."""
        return "".join(skill for skill, _ in self.chain)


def sample_queries(
    rng: np.random.Generator,
    split: Split,
    entities: Sequence[Entity],
    per_kind: int,
    operations: Sequence[Operation],
) -> tuple[Query, ...]:
    """`per_kind` queries of each type, types in turn, no prompt twice."""
    pool = _Pool(entities)
    found: list[Query] = []
    seen: set[str] = set()
    for number in range(per_kind * len(KINDS)):
        kind = KINDS[number % len(KINDS)]
        for _ in range(MAX_DRAWS):
            query = _BUILDERS[kind](rng, split, pool, operations, f"{split}-{kind}-{number}")
            if query is not None and query.prompt not in seen:
                break
        else:
            raise ValueError(
                f"No new {kind} query of split {split!r} in {MAX_DRAWS} draws from "
                f"{len(entities)} entities; raise params.data.entities."
            )
        seen.add(query.prompt)
        found.append(query)
    return tuple(found)


class _Pool:
    """Entities by staleness and number field."""

    def __init__(self, entities: Sequence[Entity]) -> None:
        self.lists: dict[tuple[bool, str], list[Entity]] = {}
        for entity in entities:
            self.lists.setdefault((entity.stale, ""), []).append(entity)
            self.lists.setdefault((entity.stale, entity.number_path), []).append(entity)

    def draw(self, rng: np.random.Generator, stale: bool, number_path: str = "") -> Entity:
        choices = self.lists[stale, number_path]
        return choices[int(rng.integers(len(choices)))]


def _lookup(
    rng: np.random.Generator,
    pool: _Pool,
    kind: QueryKind,
    query_id: str,
    *,
    stale: bool,
    in_prompt: bool,
) -> Query | None:
    entity, other = pool.draw(rng, stale), pool.draw(rng, False)
    path = entity.paths[int(rng.integers(len(entity.paths)))]
    rest = [each for each in entity.paths if each != path]
    shown = [rest[int(rng.integers(len(rest)))]]
    if in_prompt:
        shown = [path] if rng.random() < 0.5 else _shuffled(rng, [path, *shown])
    facts = [facts_text(entity.truth, tuple(shown))]
    others: tuple[str, ...] = ()
    if rng.random() < DISTRACTOR_SHARE and path in other.paths and other.key != entity.key:
        facts.append(facts_text(other.truth, (path,)))
        others = other.truth.names()
    value = entity.truth.value(path)
    chain = () if in_prompt else (("R", facts_text(entity.truth, (path,))),)
    answer = _answer(path, value)
    return Query(
        id=query_id,
        kind=kind,
        operation="get",
        prompt=_prompt(rng, "get", f"{path} {entity.key}", _shuffled(rng, facts)),
        search=f"{entity.key} {path}",
        keys=(entity.key,),
        path=path,
        answer=answer,
        chain=(*chain, ("F", answer)),
        operands="",
        names=tuple(dict.fromkeys((*entity.truth.names(), *others))),
    )


def _pair(
    rng: np.random.Generator,
    split: Split,
    pool: _Pool,
    operations: Sequence[Operation],
    kind: QueryKind,
    query_id: str,
    *,
    stale: bool,
    in_prompt: bool,
) -> Query | None:
    left = pool.draw(rng, stale)
    path = left.number_path
    right = pool.draw(rng, stale, path)
    a, b = int(left.truth.value(path)), int(right.truth.value(path))
    if a == b or left.key == right.key or operand_split(a, b) != split:
        return None
    operation = operations[int(rng.integers(len(operations)))]
    partial = int(rng.integers(2)) if rng.random() < PARTIAL_SHARE else None
    facts = []
    for position, entity in enumerate((left, right)):
        known = in_prompt or partial == position
        words = [each for each in entity.paths if each != path]
        shown = [path] if known else [words[int(rng.integers(len(words)))]]
        facts.append(facts_text(entity.truth, tuple(shown)))
    result = _result(operation, (left.key, a), (right.key, b))
    answer = _answer(operation, result)
    told = CANONICAL.listing(facts_text(entity.truth, (path,)) for entity in (left, right))
    chain = () if in_prompt else (("R", told),)
    written = CANONICAL.listing(map(str, result)) if isinstance(result, list) else str(result)
    return Query(
        id=query_id,
        kind=kind,
        operation=operation,
        prompt=_prompt(rng, operation, path, facts),
        search=f"{left.key} {right.key} {path}",
        keys=(left.key, right.key),
        path=path,
        answer=answer,
        chain=(*chain, ("E", written), ("F", answer)),
        operands=operand_key(a, b),
        names=tuple(dict.fromkeys((*left.truth.names(), *right.truth.names()))),
    )


def _result(
    operation: Operation, left: tuple[str, int], right: tuple[str, int]
) -> str | int | list[int]:
    low, high = sorted((left, right), key=lambda pair: pair[1])
    if operation == "add":
        return low[1] + high[1]
    if operation == "sort":
        return [low[1], high[1]]
    return high[0] if operation == "max" else low[0]


def _answer(name: str, value: str | int | list[int]) -> str:
    return json.dumps({name: value}, separators=(",", ":"))


def _prompt(
    rng: np.random.Generator, operation: Operation, asked: str, facts: Sequence[str]
) -> str:
    head = f"{sample_tag(rng, TAG_OF[operation])} {asked}"
    return CANONICAL.prompt(head, CANONICAL.listing(facts))


def _shuffled(rng: np.random.Generator, items: Sequence[str]) -> list[str]:
    return [items[int(i)] for i in rng.permutation(len(items))]


_Builder = Callable[[np.random.Generator, Split, _Pool, Sequence[Operation], str], Query | None]


def _build_trap(
    rng: np.random.Generator,
    split: Split,
    pool: _Pool,
    operations: Sequence[Operation],
    query_id: str,
) -> Query | None:
    if rng.integers(2):
        return _lookup(rng, pool, "TRAP", query_id, stale=True, in_prompt=True)
    return _pair(rng, split, pool, operations, "TRAP", query_id, stale=True, in_prompt=True)


_BUILDERS: Mapping[QueryKind, _Builder] = {
    "F": lambda rng, split, pool, ops, i: _lookup(rng, pool, "F", i, stale=False, in_prompt=True),
    "RF": lambda rng, split, pool, ops, i: _lookup(
        rng, pool, "RF", i, stale=False, in_prompt=False
    ),
    "ReF": lambda rng, split, pool, ops, i: _pair(
        rng, split, pool, ops, "ReF", i, stale=False, in_prompt=True
    ),
    "RReF": lambda rng, split, pool, ops, i: _pair(
        rng, split, pool, ops, "RReF", i, stale=False, in_prompt=False
    ),
    "TRAP": _build_trap,
}
