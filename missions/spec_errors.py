"""Turns a pydantic error into one line: file, field, value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError


def describe(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One line about the first problem, with the count of the others."""
    problems = error.errors(include_url=False)
    # A misspelt key is both unknown and missing; the unknown one says what to mend.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = tuple(first["loc"])
    where = ".".join(str(part) for part in location) or "(document)"
    if first["type"] == "extra_forbidden":
        known = _siblings(model, location[:-1])
        text = f"unknown key {str(location[-1])!r}.{suggest(str(location[-1]), known)}"
    elif first["type"] == "missing":
        text = "missing; it has no default."
    else:
        message = first["msg"].removeprefix("Value error, ")
        text = message if not location else f"{message} (got {_short(first.get('input'))})."
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{source}: {where}: {text}{more}"


def suggest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'? Known: ...` for an unknown word; empty when nothing is known."""
    names = sorted(known)
    if not names:
        return ""
    close = difflib.get_close_matches(word, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(names)}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _siblings(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model at `path`, following nested models, lists, dicts and unions."""
    candidates: list[Any] = [model]
    for part in path:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                if part in candidate.model_fields:
                    following.append(candidate.model_fields[str(part)].annotation)
                elif _tag(candidate) == part:
                    following.append(candidate)
            else:
                following.extend(_members(candidate))
        candidates = [model for item in following for model in _flatten(item)]
    return sorted(
        {
            name
            for candidate in candidates
            if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            for name in candidate.model_fields
        }
    )


def _tag(model: type[BaseModel]) -> Any:
    kind = model.model_fields.get("kind")
    return getattr(kind.annotation, "__args__", (None,))[0] if kind else None


def _members(annotation: Any) -> list[Any]:
    return [item for item in getattr(annotation, "__args__", ()) if item is not Ellipsis]


def _flatten(annotation: Any) -> list[Any]:
    """Models reachable from an annotation; containers stay for the next index."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return [annotation]
    origin = getattr(annotation, "__origin__", None)
    if origin in (tuple, list, dict):
        return [annotation]
    found: list[Any] = []
    for item in _members(annotation):
        found.extend(_flatten(item))
    return found or [annotation]
