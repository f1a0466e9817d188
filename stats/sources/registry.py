"""Finds the formats of this folder and hands a file to the one that it belongs to."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from stats.sources.base import Source, SourceError, SourceOptions


class FormatModule(Protocol):
    """What a file of this folder defines to be a format."""

    NAME: str

    @staticmethod
    def matches(path: Path) -> bool:
        """Whether the file looks like this format; reads as little as it can."""

    @staticmethod
    def read(path: Path, options: SourceOptions) -> Source: ...


@cache
def formats() -> Mapping[str, FormatModule]:
    """Name -> module; the long table comes last, because it takes what others do not."""
    found: dict[str, FormatModule] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"stats.sources.{info.name}")
        if hasattr(module, "NAME"):
            found[module.NAME] = cast(FormatModule, module)
    return dict(sorted(found.items(), key=lambda item: (item[0] == "table", item[0])))


def read_source(path: Path, options: SourceOptions, *, form: str | None = None) -> Source:
    """Reads one file.

    Args:
        form: name of the format; None looks at the file.

    Raises:
        SourceError: no such file, an unknown format, or contents that do not fit it.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file.")
    known = formats()
    if form is not None and form not in known:
        raise SourceError(f"Unknown format {form!r}. Known: {', '.join(known)}.")
    for name, module in known.items():
        if name == form or (form is None and module.matches(path)):
            return module.read(path, options)
    raise SourceError(
        f"{path}: not a format that is known here ({', '.join(known)}). A long table is .csv, "
        ".parquet or .jsonl."
    )
