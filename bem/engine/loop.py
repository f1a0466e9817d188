"""The thread that runs an engine: steps while there is work, other work between steps, then sleep.

Everything that touches the host (adapters put on or taken off, a planner's chunk) runs on this
thread, between two steps: `call` for something short, `run` for something in pieces, after each of
which answers go on. It knows neither HTTP nor what the work is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from bem.engine.engine import Engine
from bem.engine.request import Emit, Request, Ticket
from bem.errors import QueueFullError

T = TypeVar("T")
Pieces = Generator[None, None, T]
"""Work that yields where others may go on, and returns its result."""
QUIET_S, GATHER_S = 0.006, 0.05
"""Whoever got an answer together asks again nearly together: an engine that has just run empty
begins once as many wait as it answered, when none came for the first, or after the second. A
prompt read alone costs half of what eight cost together, and stays a step out of time with them."""


class EngineLoop:
    """One engine, one thread. `with EngineLoop(engine) as loop:` stops it at the end."""

    def __init__(self, engine: Engine, *, max_pieces: int = 64) -> None:
        """`max_pieces`: how many `run`s may stand side by side."""
        self.engine = engine
        self._max_pieces = max_pieces
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._pieces: deque[tuple[Pieces[Any], Future[Any]]] = deque()
        self._wake = threading.Event()
        self._stop = False
        self._running = False
        self._beat_s = time.monotonic()
        self._after_step: Callable[[], None] | None = None
        self._together = 0
        """Most answers side by side since the engine was empty."""
        self._wanted = 1
        """`submit` wakes the thread once so many wait: each time costs both threads a switch."""
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._work, name="bem-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._running = True
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after the step that is running; what is left gets no answer."""
        self._stop = True
        self._wake.set()
        self._thread.join(timeout_s)

    def __enter__(self) -> EngineLoop:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def after_step(self, act: Callable[[], None]) -> None:
        """Called on the engine's thread once a step has told its events (to flush them)."""
        self._after_step = act

    def is_alive(self) -> bool:
        """Whether the thread runs. (Asking the thread itself takes a lock that it contends for.)"""
        return self._running

    def silent_s(self) -> float:
        """Seconds since the loop last came round; it does so at least every second."""
        return time.monotonic() - self._beat_s

    def submit(self, request: Request, emit: Emit) -> Ticket:
        """As `Engine.submit`."""
        ticket = self.engine.submit(request, emit)
        if self.engine.waiting >= self._wanted and not self._wake.is_set():
            self._wake.set()
        return ticket

    def call(self, act: Callable[[], T]) -> Future[T]:
        """Run something short between two steps."""
        future: Future[T] = Future()
        self._calls.append((act, future))
        self._wake.set()
        return future

    def run(self, pieces: Pieces[T]) -> Future[T]:
        """Run work in pieces, one between two steps.

        Raises:
            QueueFullError: too much of that is under way.
        """
        if len(self._pieces) >= self._max_pieces:
            raise QueueFullError(f"{len(self._pieces)} such answers are under way already.")
        future: Future[T] = Future()
        self._pieces.append((pieces, future))
        self._wake.set()
        return future

    def _work(self) -> None:
        try:
            self._rounds()
        finally:
            self._running = False

    def _rounds(self) -> None:
        while not self._stop:
            self._beat_s = time.monotonic()
            self._wake.clear()
            while self._calls:
                _settle(*self._calls.popleft())
            if self._pieces:
                self._next_piece()
            self._gather()
            more = self.engine.step()
            if self._after_step is not None:
                self._after_step()
            if not (more or self._calls or self._pieces) and not self._wake.wait(1.0):
                self.engine.rest()

    def _gather(self) -> None:
        now = time.monotonic()
        if self.engine.running:
            self._together = max(self._together, self.engine.running)
            self._busy_s = now
            return
        if not self.engine.waiting:
            return
        if now - self._busy_s < GATHER_S:
            self._wanted = self._together
            self._wait_until(now + GATHER_S)
            self._wanted = 1
        self._together = 0

    def _wait_until(self, end: float) -> None:
        """Until as many wait as are wanted, none came for a while, or it is `end`."""
        while time.monotonic() < end:
            self._wake.clear()
            waiting = self.engine.waiting
            if waiting >= self._wanted or self._calls or self._pieces or self._stop:
                return
            if not self._wake.wait(QUIET_S) and waiting == self.engine.waiting:
                return

    def _next_piece(self) -> None:
        pieces, future = self._pieces.popleft()
        if future.cancelled():
            pieces.close()
            return
        try:
            with torch.inference_mode():
                next(pieces)
        except StopIteration as end:
            if future.set_running_or_notify_cancel():
                future.set_result(end.value)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            self._pieces.append((pieces, future))


def _settle(act: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(act())
    except Exception as error:  # noqa: BLE001 - told to whoever waits
        future.set_exception(error)
