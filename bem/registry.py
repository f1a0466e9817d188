"""Which adapters exist: one for each folder in `bem/adapters`, found by name, imported on use.

A folder registers by defining CONFIG and ADAPTER in its `__init__.py`; no list is kept anywhere.
`add_adapter_folder` lets a folder elsewhere be one.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

import bem.adapters
from bem.errors import InvalidInputError
from bem.interfaces import Adapter, AdapterConfig

_LIBRARY = tuple(bem.adapters.__path__)
_added: list[Path] = []


@cache
def adapter_kinds() -> tuple[str, ...]:
    """The names of all adapters, sorted."""
    own = [m.name for m in pkgutil.iter_modules(_LIBRARY) if m.ispkg]
    return tuple(sorted([*own, *[folder.name for folder in _added]]))


def add_adapter_folder(folder: str | Path) -> str:
    """Let a folder of your own (`CONFIG` and `ADAPTER` in its `__init__.py`) be an adapter; returns
    its kind, the folder's name. Inside it is `bem.adapters.<kind>`, as those of the library are.

    Raises:
        InvalidInputError: it is no package, or another adapter has its name.
    """
    folder = Path(folder).resolve()
    if not (folder / "__init__.py").is_file():
        raise InvalidInputError(f"'{folder}' has no __init__.py: it holds no adapter.")
    if folder in _added:
        return folder.name
    if folder.name in adapter_kinds():
        raise InvalidInputError(f"There is an adapter '{folder.name}' already; rename '{folder}'.")
    _added.append(folder)
    bem.adapters.__path__.append(str(folder.parent))
    adapter_kinds.cache_clear()
    return folder.name


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
