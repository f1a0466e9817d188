"""What of the working directory is sent to a cluster, and whether it is small enough.

Knows files only. The patterns are Ray's (gitignore syntax); folders of these names are left out
wherever they stand.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from fleet.errors import UsageError

LEFT_OUT = (".git", ".venv", "runs", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
PATTERNS = [*(f"{name}/" for name in LEFT_OUT), "*.sqlite", "*.sqlite-wal"]
MAX_MIB = 200
"""Ray refuses what does not fit into one message (about 500 MiB); every node gets a copy."""


def check_size(folder: Path) -> int:
    """Bytes that would be sent.

    Raises:
        UsageError: too much; names the largest entries.
    """
    sizes: Counter[str] = Counter()
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        top = Path(root).relative_to(folder).parts[:1]
        for name in files:
            path = Path(root, name)
            if not name.endswith((".sqlite", ".sqlite-wal")) and not path.is_symlink():
                sizes[top[0] if top else name] += path.stat().st_size
    total = sizes.total()
    if total > MAX_MIB << 20:
        largest = ", ".join(f"{n} ({size >> 20:,} MiB)" for n, size in sizes.most_common(3))
        raise UsageError(
            f"--address sends {folder} to every node: {total >> 20:,} MiB, at most {MAX_MIB}. "
            f"Largest: {largest}. Left out already: {', '.join(LEFT_OUT)}.",
            go_on="launch from a folder that holds the code only",
        )
    return total
