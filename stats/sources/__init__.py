"""Scores that other tools wrote, read into our long table. Each file is one format.

`read_source` finds the format by looking at the file; a format is a module with `MATCHES` and
`read`. No format knows another, and none knows gates.
"""

from __future__ import annotations

from stats.sources.base import Source, SourceError, SourceOptions
from stats.sources.registry import formats, read_source

__all__ = ["Source", "SourceError", "SourceOptions", "formats", "read_source"]
