"""Shows snapshots as they come: a table that redraws itself on a terminal, lines elsewhere.

Everything goes to stderr, so that stdout stays free for `--json`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from fleet.monitor.snapshot import Snapshot
from fleet.monitor.table import plain_line, render

REDRAW_S = 0.5
LINES_S = 1.0


Show = Callable[[Callable[[], Snapshot], bool], None]
"""Shows what a function looks up, if it is time to; `True` shows it in any case."""


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Lends a function that shows snapshots; it looks at the ledger no more often than needed."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(
        console=console, auto_refresh=False, vertical_overflow="crop", redirect_stdout=False
    ) as live:
        yield _Redraw(console, live)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: Snapshot | None = None
        self._at = 0.0

    def __call__(self, look: Callable[[], Snapshot], now: bool) -> None:
        if not now and time.monotonic() - self._at < LINES_S:
            return
        self._at = time.monotonic()
        snapshot = look()
        for line in plain_line(self._last, snapshot):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._last = snapshot


class _Redraw:
    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._at = 0.0

    def __call__(self, look: Callable[[], Snapshot], now: bool) -> None:
        if not now and time.monotonic() - self._at < REDRAW_S:
            return
        self._at = time.monotonic()
        size = self._console.size
        self._live.update(render(look(), width=size.width, height=size.height), refresh=True)
