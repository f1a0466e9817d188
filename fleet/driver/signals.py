"""SIGINT and SIGTERM as a flag that a loop can look at; and whose they are while Ray starts. Knows
nothing of what is stopped."""

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
        before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.asked_by = signal.Signals(number).name
            self.signal_number = number
            self._at = time.monotonic()
        elif time.monotonic() - self._at > ECHO_S:
            raise KeyboardInterrupt


@contextlib.contextmanager
def sigterm_held() -> Iterator[None]:
    """A SIGTERM that comes inside goes to the handler that stood before: afterwards, or at once
    where another thread of the process takes it.

    Ray's start takes SIGTERM several times over: in Python, where its handler leaves from the
    middle with the bare number, or not at all if the exception is lost on the way, and in C++,
    where it ends in an abort (each was seen). So this thread blocks the signal; and because it may
    reach another thread of the process, which does not, `signal.signal` leaves SIGTERM as it is
    meanwhile, as Ray does itself with SIGINT. (Ray's own C++ handler in such a thread remains.)
    Processes that are started inside inherit the block and must lift it. Where nobody handles
    SIGTERM, nothing is held: Ray ends what it started.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    take = signal.signal

    def take_others(number: int, wanted: Any) -> Any:
        return handler if number == signal.SIGTERM else take(number, wanted)

    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal = take_others  # type: ignore[assignment]
        yield
    finally:
        signal.signal = take
        signal.signal(signal.SIGTERM, handler)  # over Ray's in C++
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
