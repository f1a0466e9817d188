"""Freed memory stays with the process while a training loop runs, where malloc is glibc's.

A step frees what it took, and glibc gives the end of its heap back to the system at each step, to
take it again page by page in the next: 17,000 page faults a step of 350 CPU ms (a pack of five runs
of 4 rows of 128 tokens, d = 192, 4 layers). `mallopt(3)` says how much it may keep. Only blocks
below 32 MiB are kept, the most that glibc lets its own threshold grow to: glibc 2.36 does not find
a freed aligned block of the very same size again, and a heap with larger ones grew without end.
With that limit the peak was what it had been (2,558 against 2,468 MiB in 14 steps of 16 rows of 85
to 256 tokens, 1,173 against 1,165 in 60 of 4 rows), and `malloc_trim(3)` at the end gave all of it
back. It knows neither models nor data.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h."""
_LARGEST_KEPT = 32 << 20
_ALL = 2**31 - 1
"""mallopt takes an int."""
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")

_lock = threading.Lock()
_inside = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, this process keeps what it frees in blocks below 32 MiB; at the end it is given back.

    The setting is the process's, for all its threads; of several that are inside the last to leave
    ends it. malloc then stands as in a process that once freed a block of 32 MiB: heap ends above
    64 MiB are given back as they come. Nothing is done where malloc is another's, or where the
    environment sets it (MALLOC_TRIM_THRESHOLD_ and its like, glibc.malloc in GLIBC_TUNABLES).
    """
    malloc = _malloc()
    if malloc is None:
        yield
        return
    _enter(malloc)
    try:
        yield
    finally:
        _leave(malloc)


def _enter(malloc: Any) -> None:
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            malloc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
            malloc.mallopt(_TRIM_THRESHOLD, _ALL)


def _leave(malloc: Any) -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside:
            malloc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
            malloc.malloc_trim(0)


def _malloc() -> Any | None:
    """glibc, where nobody but us sets its malloc."""
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}):
        return None
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name in os.environ for name in _OWN_SETTINGS):
        return None
    return ctypes.CDLL(None)
