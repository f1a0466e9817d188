"""Turns frozen records into plain JSON data and back. Knows the records only by their types.

NaN and infinity never reach JSON: `to_plain` refuses them, so that a missing figure has to be
None where the record is made.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from stats.errors import StatsError

R = TypeVar("R")


def to_plain(value: Any) -> Any:
    """Dicts, lists, strings, numbers, booleans and None, nothing else.

    Raises:
        StatsError: a number is NaN or infinite, or a type has no plain form.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise StatsError(f"{float(value)} has no place in a result; use None.")
        return float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [to_plain(item) for item in value]
    raise StatsError(f"{type(value).__name__} has no plain form.")


def from_plain(record: type[R], data: Mapping[str, Any]) -> R:
    """Rebuilds a record from what `to_plain` made of it.

    Raises:
        StatsError: a field is unknown or missing.
    """
    hints = get_type_hints(record)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise StatsError(f"{record.__name__}: unknown fields {unknown}; known: {sorted(hints)}.")
    try:
        return record(**{name: _read(hints[name], item) for name, item in data.items()})
    except TypeError as error:
        raise StatsError(f"{record.__name__}: {error}") from None


def _read(hint: Any, item: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if item is None:
            return None
        options = [option for option in get_args(hint) if option is not type(None)]
        return _read(options[0], item) if len(options) == 1 else item
    if origin is tuple:
        return tuple(_read(get_args(hint)[0], entry) for entry in item)
    if origin is Literal or hint is Any:
        return item
    if isinstance(hint, type) and is_dataclass(hint):
        return from_plain(hint, item)
    if hint is float:
        return float(item)
    return item
