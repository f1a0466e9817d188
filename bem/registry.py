"""Which adapters exist: one for each folder in `bem/adapters`, found by name, imported on use.

A folder registers by defining CONFIG and ADAPTER in its `__init__.py`; no list is kept anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

from pydantic import ValidationError

import bem.adapters
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig


@cache
def adapter_kinds() -> tuple[str, ...]:
    """The names of all adapters, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(bem.adapters.__path__) if m.ispkg))


@cache
def _package(kind: str) -> ModuleType:
    if kind not in adapter_kinds():
        known = ", ".join(adapter_kinds())
        raise InvalidInputError(f"Unknown adapter '{kind}'. Known: {known}.")
    return importlib.import_module(f"bem.adapters.{kind}")


def adapter_class(kind: str) -> type[Adapter]:
    """The class of adapter `kind`."""
    cls: type[Adapter] = _package(kind).ADAPTER
    return cls


def naive_module(kind: str) -> ModuleType:
    """The slow reference of adapter `kind`."""
    _package(kind)
    return importlib.import_module(f"bem.adapters.{kind}.naive")


def make_config(kind: str, /, **fields: Any) -> AdapterConfig:
    """A config by the adapter's name and its fields, as a mission file gives them."""
    cls = adapter_class(kind).config_class
    unknown = sorted(set(fields) - set(cls.model_fields))
    if unknown:
        known = ", ".join(sorted(cls.model_fields))
        raise InvalidInputError(f"Adapter '{kind}': unknown field '{unknown[0]}'. Known: {known}.")
    try:
        return cls(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(
            f"Adapter '{kind}': field '{where}' is {first['input']!r}: {first['msg']}."
        ) from error
