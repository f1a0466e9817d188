"""SIGINT and SIGTERM as a flag that a loop can look at. Knows nothing of what is stopped."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

ECHO_S = 1.0
"""`timeout` signals its child and then the child's group: within this time it is one signal."""


class Stopper:
    """Turns the first SIGINT or SIGTERM into a flag and the second into an immediate exit."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.asked_by = ""
        """Who asked, in words: a signal's name, or a command."""
        self._at = 0.0

    def ask(self, who: str) -> None:
        """A stop that was asked for in another way than by a signal; it ends like SIGTERM."""
        if self.signal_number is None:
            self.asked_by = who
            self.signal_number = signal.SIGTERM
            self._at = time.monotonic()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handles signals inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def install(self) -> dict[int, Any]:
        """Takes the signals over; returns who had them. Ray takes SIGTERM when it starts."""
        return {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.asked_by = signal.Signals(number).name
            self.signal_number = number
            self._at = time.monotonic()
        elif time.monotonic() - self._at > ECHO_S:
            raise KeyboardInterrupt
