"""The notice that this process is about to be taken away, and where it comes from.

A process is told by SIGTERM, or by Ray Train when a node is drained (a spot instance that is
reclaimed). The worker writes a checkpoint and leaves. Ray's own names are imported where they are
used only.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

LEAVE_S = 20.0
"""A worker that was told leaves within this time, by force where it must: SIGTERM is followed by
SIGKILL after 30 s almost everywhere."""


class Notice:
    """Whether this process was told to go."""

    def __init__(self) -> None:
        self._given = threading.Event()
        self.reason = ""
        self.heard = False
        """Whether somebody here will act on it."""

    @property
    def given(self) -> bool:
        return self._given.is_set()

    def give(self, reason: str) -> None:
        """Told; the first reason stays."""
        self.reason = self.reason or reason
        self._given.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until told."""
        return self._given.wait(timeout_s)


NOTICE = Notice()
"""Of this process: a signal concerns all of it."""


def watch_sigterm() -> None:
    """Turns SIGTERM into the notice while somebody hears it; else who had the signal keeps it.

    Call from the main thread: no other may take signals.
    """
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if NOTICE.heard:
            NOTICE.give("SIGTERM")
        elif callable(before):
            before(number, frame)
        else:
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, handle)


def drained() -> str:
    """Why Ray Train says that a node of this worker group goes; empty where it says nothing.

    `ray.train.get_preemption_info` is a barrier of the whole group, and workers that lease packs
    never meet at one: what it would agree on is read here as this worker was told.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    info = get_train_context().preemption_context.preemption_info
    if info is None:
        return ""
    return f"Ray drains node {', '.join(node[:12] for node in info.preempted_node_ids)}"
