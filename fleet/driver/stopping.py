"""Stops a run from another terminal: asks its driver, then signals it, then kills it.

Whatever the driver's state, at the end nobody works on the run, and the ledger says how it ended.
Processes that a dead driver left are ended as well.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable

from fleet.driver import leftovers, requests
from fleet.driver.driver_lock import Driver, driver_of, moment
from fleet.errors import StorageError, UsageError
from fleet.ledger.database import is_begun
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.settings import RunPaths
from fleet.sweep.records import SWEEP_ONLY

ANSWER_S = 15.0
"""How long a driver may take to take a request up (its loop turns five times a second)."""
KILL_WAIT_S = 10.0

Say = Callable[[str], None]


def stop(paths: RunPaths, *, hard: bool, timeout_s: float, say: Say) -> None:
    """Stops the run's driver.

    Args:
        hard: kill at once; what was in training goes on from its newest checkpoint at a resume.
        timeout_s: how long a driver that was asked, or signalled, may take to leave.

    Raises:
        UsageError: the driver runs on another host.
        StorageError: it could not be ended.
    """
    driver = driver_of(paths)
    if driver is None or not driver.alive:
        gone = f"since {moment(driver.seen)}" if driver is not None else "and never had one"
        say(f"run {paths.run_id} has no driver {gone}")
        _end_leftovers(paths, driver, say)
        return
    if driver.host != platform.node():
        raise UsageError(
            f"Run {paths.run_id} is driven by {driver.who}; stop it there.",
            go_on=f"python fleet.py stop {paths.run_id} on {driver.host}",
        )
    say(f"run {paths.run_id} is driven by {driver.who}")
    if not hard and (_ask(paths, timeout_s, say) or _signal(paths, driver, timeout_s, say)):
        say(f"stopped; {going_on(paths)} goes on")
        return
    _kill(paths, driver, say)
    say(f"killed; {going_on(paths)} goes on")


def going_on(paths: RunPaths) -> str:
    """The command that goes on with the run."""
    again = None
    if is_begun(paths.ledger):
        with LedgerReader(paths.ledger) as reader:
            again = reader.meta().get(SWEEP_ONLY)
    return str(again or f"python fleet.py resume {paths.run_id}")


def _ask(paths: RunPaths, timeout_s: float, say: Say) -> bool:
    answer = requests.wait_for_answer(
        paths, requests.ask(paths, "stop"), timeout_s=min(ANSWER_S, timeout_s)
    )
    if answer is None:
        say(f"no answer within {min(ANSWER_S, timeout_s):.0f} s")
        return not _alive(paths)
    say(f"{answer.text}; waiting up to {timeout_s:.0f} s")
    return _wait_gone(paths, timeout_s)


def _signal(paths: RunPaths, driver: Driver, timeout_s: float, say: Say) -> bool:
    say(f"SIGTERM to process {driver.pid}; waiting up to {timeout_s:.0f} s")
    if leftovers.is_same(driver.pid, driver.process_started):
        os.kill(driver.pid, signal.SIGTERM)
    return _wait_gone(paths, timeout_s)


def _kill(paths: RunPaths, driver: Driver, say: Say) -> None:
    say(f"SIGKILL to process {driver.pid}")
    leftovers.kill(driver.pid, driver.process_started)
    if not _wait_gone(paths, KILL_WAIT_S):
        raise StorageError(
            f"Process {driver.pid} still holds {paths.driver_lock} after SIGKILL.",
            log=str(paths.logs),
        )
    _end_leftovers(paths, driver, say)
    if is_begun(paths.ledger):
        ledger = Ledger(paths.ledger)
        ledger.event("warning", "fleet", "killed by python fleet.py stop")
        ledger.end_session(driver.session, "killed by python fleet.py stop")
        ledger.close()


def _end_leftovers(paths: RunPaths, driver: Driver | None, say: Say) -> None:
    known = [] if driver is None else [driver.session, *driver.earlier]
    ended = leftovers.end_of_run(paths, known)
    if ended:
        say(f"ended {len(ended)} processes that it had left")


def _alive(paths: RunPaths) -> bool:
    driver = driver_of(paths)
    return driver is not None and driver.alive


def _wait_gone(paths: RunPaths, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not _alive(paths):
            return True
        time.sleep(0.2)
    return False
