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
        self._at = 0.0

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
            self.signal_number = number
            self._at = time.monotonic()
        elif time.monotonic() - self._at > ECHO_S:
            raise KeyboardInterrupt
