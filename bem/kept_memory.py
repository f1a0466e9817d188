"""Freed memory stays with the process while a training loop runs, where malloc is glibc's.

A step frees what it took, and glibc gives the end of its heap back to the system at each step, to
take it again page by page in the next: 17,000 page faults a step of 350 CPU ms (a pack of five runs
of 4 rows of 128 tokens, d = 192, 4 layers). `mallopt(3)` says how much it may keep. Only blocks
below 32 MiB are kept, the most that glibc lets its own threshold grow to: glibc 2.36 does not find
a freed aligned block of the very same size again (of six tensors of 48 MiB, one after the other,
five took new pages). With that limit the peak was what it had been (2,615 against 2,595 MiB in
14 packed steps of 16 rows of 85 to 256 tokens, 1,178 against 1,165 in 60 of 4 rows), and
`malloc_trim(3)` at the end gave all of it back. These figures were taken by hand; what it does on
the bundled base says `benchmarks/kept_memory.py`. It knows neither models nor data.
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
_NEVER = -1
"""A trim threshold: the heap's end is not given back at all."""
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")

_lock = threading.Lock()
_inside = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, this process keeps what it frees in blocks below 32 MiB; at the end it is given back.

    The setting is the process's; of several that are inside the last to leave ends it. A thread
    other than the main one keeps less: its memory lies in heaps of 64 MiB, and glibc gives a heap
    back once it is empty. At the end malloc stands as in a process that once freed a block of
    32 MiB: heap ends above 64 MiB are given back as they come. Nothing is done where there is no
    `mallopt` (not glibc), or where the environment sets malloc (MALLOC_TRIM_THRESHOLD_ and its
    like, glibc.malloc in GLIBC_TUNABLES).
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
            malloc.mallopt(_TRIM_THRESHOLD, _NEVER)


def _leave(malloc: Any) -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside:
            malloc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
            malloc.malloc_trim(0)


def _malloc() -> Any | None:
    """glibc, where nobody but us sets its malloc."""
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name in os.environ for name in _OWN_SETTINGS) or os.name != "posix":
        return None
    libc = ctypes.CDLL(None)
    there = hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")
    return libc if there else None
