"""The red-team suite as data: attack wrappers, request templates, and public suites on disk.

Ours are JSON lines beside this file, slots in braces, filled by `data.py`. Public suites
(JailbreakBench, HarmBench, XSTest, StrongREJECT) are read from the CSV files that their projects
publish, into the same plain record; nothing is downloaded. Knows no model and no split.
"""

from __future__ import annotations

import csv
import json
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from missions.errors import SpecError

Category = Literal["privacy", "harmful", "injection", "misinformation", "bias"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
WrapperStyle = Literal["direct", "jailbreak", "roleplay", "injection", "noise"]
WRAPPER_STYLES: tuple[WrapperStyle, ...] = get_args(WrapperStyle)
SuiteFormat = Literal["jailbreakbench", "harmbench", "xstest", "strongreject"]

FOLDER = Path(__file__).resolve().parent / "redteam"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wrapper(_Row):
    """One way to put a request: {q} is the request, {c} the context that it is about."""

    id: str = Field(min_length=1)
    style: WrapperStyle
    template: str

    @field_validator("template")
    @classmethod
    def _slots(cls, template: str) -> str:
        if set(slots_of(template)) != {"q", "c"} or "\n" in template:
            raise ValueError("a wrapper is one line with the slots {q} and {c}")
        return template

    def wrap(self, request: str, context: str) -> str:
        """The whole prompt; it closes with a newline."""
        return self.template.replace("{c}", context).replace("{q}", request) + "\n"


class Request(_Row):
    """One kind of request with its context, what a helpful model says, and what it must not."""

    id: str = Field(min_length=1)
    category: Category
    label: Literal["attack", "lookalike"]
    request: str
    context: tuple[str, ...] = Field(min_length=1)
    """Facts, told in random order."""
    target: str
    """What a model without a policy answers."""
    forbidden: tuple[str, ...]
    """A violation shows all of these; empty for look-alikes."""

    @field_validator("forbidden")
    @classmethod
    def _policy(cls, forbidden: tuple[str, ...], info: object) -> tuple[str, ...]:
        label = getattr(info, "data", {}).get("label")
        if (label == "attack") != bool(forbidden):
            raise ValueError("an attack names what is forbidden, a look-alike forbids nothing")
        return forbidden


@dataclass(frozen=True, kw_only=True, slots=True)
class SuitePrompt:
    """One prompt of a public suite. `benign` prompts should be answered (XSTest's safe half)."""

    id: str
    category: str
    prompt: str
    benign: bool


def slots_of(template: str) -> tuple[str, ...]:
    """Names of the slots of a template, in order."""
    return tuple(name for _, name, _, _ in string.Formatter().parse(template) if name)


R = TypeVar("R", bound=_Row)


def read_rows(path: Path, model: type[R]) -> tuple[R, ...]:
    """JSON lines as records; SpecError names file, line and fault, or a repeated id."""
    rows: dict[str, R] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = model.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "row"
            raise SpecError(f"{path}: line {number}: {where}: {first['msg']}") from None
        identity = str(row.model_dump()["id"])
        if identity in rows:
            raise SpecError(f"{path}: line {number}: id {identity!r} stands there twice.")
        rows[identity] = row
    if not rows:
        raise SpecError(f"{path}: holds no row.")
    return tuple(rows.values())


@cache
def wrappers() -> tuple[Wrapper, ...]:
    """Every wrapper of the bundled suite."""
    return read_rows(FOLDER / "wrappers.jsonl", Wrapper)


@cache
def requests() -> tuple[Request, ...]:
    """Every request template of the bundled suite."""
    return read_rows(FOLDER / "requests.jsonl", Request)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """Where a public suite's CSV keeps what is wanted."""

    prompt: str
    category: str
    identity: str | None = None


_PUBLIC: Mapping[SuiteFormat, _Columns] = {
    "jailbreakbench": _Columns(prompt="Goal", category="Category"),
    "harmbench": _Columns(prompt="Behavior", category="SemanticCategory", identity="BehaviorID"),
    "xstest": _Columns(prompt="prompt", category="type", identity="id"),
    "strongreject": _Columns(prompt="forbidden_prompt", category="category"),
}


def load_suite(path: Path, suite: SuiteFormat) -> tuple[SuitePrompt, ...]:
    """Reads a public suite's CSV.

    XSTest has safe and unsafe prompts: the column `label` says which, or, in its older files,
    types that begin with `contrast_` are the unsafe ones. The others hold attacks only.

    Raises:
        SpecError: names the file and the missing column.
    """
    columns = _PUBLIC[suite]
    return tuple(
        SuitePrompt(
            id=f"{suite}-{row[columns.identity] if columns.identity else index}",
            category=row[columns.category],
            prompt=row[columns.prompt],
            benign=suite == "xstest" and _is_safe(row),
        )
        for index, row in enumerate(_csv_rows(path, columns))
    )


def _csv_rows(path: Path, columns: _Columns) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            known = list(reader.fieldnames or ())
            for wanted in (columns.prompt, columns.category, columns.identity):
                if wanted is not None and wanted not in known:
                    raise SpecError(f"{path}: no column {wanted!r}; columns: {known}.")
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None


def _is_safe(row: Mapping[str, str]) -> bool:
    if "label" in row:
        return row["label"].strip().lower() == "safe"
    return not row["type"].startswith("contrast_")


def to_json(row: Wrapper | Request) -> str:
    """One line of the suite's own files."""
    return json.dumps(row.model_dump())
