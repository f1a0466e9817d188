"""Processes of a driver that is gone: found by the token that they carry, and ended.

Every process that a driver starts inherits `BEM_FLEET_SESSION` in its environment, Ray's daemons
and workers included, and the token stands in the ledger and in the driver's lock. So what is left
of a killed driver is found for certain, and nobody else's Ray is ever touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

import psutil

from fleet.ledger.database import is_begun
from fleet.ledger.reader import LedgerReader
from fleet.settings import RunPaths

SESSION_VARIABLE = "BEM_FLEET_SESSION"
_SAME_START_S = 0.05
"""Start times of one process agree to the kernel's clock tick."""


def find(sessions: Iterable[str]) -> list[psutil.Process]:
    """Living processes of this user that belong to one of these sessions."""
    wanted = {session for session in sessions if session}
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(SESSION_VARIABLE) in wanted:
                found.append(process)
    return found


def end(sessions: Iterable[str], *, wait_s: float = 10.0) -> list[str]:
    """Kills what is left of these sessions; returns a line for each process.

    Killed at once: whatever they do, nobody takes it from them, and a worker that is asked
    politely might still write.
    """
    wanted = list(sessions)
    told: list[str] = []
    for _ in range(5):  # a daemon may start one more process while its siblings die
        processes = find(wanted)
        if not processes:
            break
        for process in processes:
            with contextlib.suppress(psutil.Error):
                told.append(f"{process.pid} {process.name()}")
                process.kill()
        psutil.wait_procs(processes, timeout=wait_s)
    return told


def end_of_run(paths: RunPaths, known: Iterable[str]) -> list[str]:
    """As `end`, of every driver that a run has had.

    Args:
        known: tokens that the driver's lock names; the ledger names the others.
    """
    sessions = list(known)
    if is_begun(paths.ledger):
        with LedgerReader(paths.ledger) as reader:
            sessions += [row.session for row in reader.sessions()]
    return end(sessions)


def kill(pid: int, process_started: float) -> bool:
    """Kills one process, unless its number has gone to another one since."""
    if not is_same(pid, process_started):
        return False
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).kill()
        return True
    return False


def is_same(pid: int, process_started: float) -> bool:
    """Whether a process still lives under its number."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - process_started) <= _SAME_START_S)
    except psutil.Error:
        return False
