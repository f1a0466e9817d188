"""Which process drives a run: a lock that dies with it, and a heartbeat beside the lock.

`runs/<id>/driver.lock` is locked (flock) for as long as its driver lives; the operating system
drops the lock however the process ends, so a dead driver is never taken for a live one. The file
says who drives since when, and its modification time is the heartbeat: a driver that holds the
lock but has not been heard of hangs, and is told apart from one that is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psutil

from fleet.errors import StorageError, UsageError
from fleet.settings import RunPaths

HUNG_AFTER_S = 30.0
"""A driver that holds its lock and is silent for this long is shown as hanging."""
MAX_EARLIER = 50
_TRIES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """Who drives a run, or drove it last."""

    pid: int
    process_started: float
    host: str
    session: str
    since: float
    command: str
    alive: bool
    """Whether it holds the lock now."""
    seen: float
    """When it was last heard of."""
    earlier: tuple[str, ...] = ()
    """Sessions of the drivers before it, whose processes may be left."""

    @property
    def who(self) -> str:
        """In words, for a refusal."""
        return f"process {self.pid} on {self.host}, since {moment(self.since)}"


class HeldLock:
    """The lock in the hands of its driver."""

    def __init__(self, path: Path, session: str, earlier: tuple[str, ...]) -> None:
        self._path = path
        self.session = session
        self.earlier = earlier
        """Sessions of the drivers before this one."""

    def beat(self) -> None:
        """The driver is alive."""
        os.utime(self._path)


@contextlib.contextmanager
def drive(paths: RunPaths, *, command: str) -> Iterator[HeldLock]:
    """Makes this process the run's driver.

    Raises:
        UsageError: another process drives it; says which.
        StorageError: the disk refused.
    """
    path = paths.driver_lock
    try:
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None
    with stream:
        if not _lock(stream):
            raise _refusal(paths, driver_of(paths))
        before = driver_of(paths, locked_by_us=True)
        earlier = (*before.earlier, before.session)[-MAX_EARLIER:] if before is not None else ()
        session = uuid.uuid4().hex
        body: dict[str, Any] = {
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "host": platform.node(),
            "session": session,
            "since": time.time(),
            "command": command,
            "earlier": [token for token in earlier if token],
        }
        try:
            stream.seek(0)
            stream.truncate()
            stream.write(json.dumps(body))
            stream.flush()
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error}") from None
        yield HeldLock(path, session, tuple(body["earlier"]))


def driver_of(paths: RunPaths, *, locked_by_us: bool = False) -> Driver | None:
    """Who drives the run now, or drove it last; None where nobody ever did.

    Args:
        locked_by_us: this process holds the lock already and asks for its predecessor.
    """
    path = paths.driver_lock
    try:
        with path.open(encoding="utf-8") as stream:
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                alive = False
            except OSError:
                alive = True
            text = stream.read()
            seen = os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        body = json.loads(text)
        earlier = tuple(body.pop("earlier", ()))
        return Driver(**body, earlier=earlier, alive=alive and not locked_by_us, seen=seen)
    except (ValueError, TypeError):
        # Between the lock and its first line, or killed there.
        return Driver(
            pid=0,
            process_started=0.0,
            host=platform.node(),
            session="",
            since=seen,
            command="",
            alive=alive and not locked_by_us,
            seen=seen,
        )


def refuse_driven(paths: RunPaths) -> None:
    """A look before anything heavy is imported: a second driver is told at once.

    Raises:
        UsageError: another process drives the run; says which.
    """
    driver = driver_of(paths)
    if driver is not None and driver.alive:
        raise _refusal(paths, driver)


def moment(at: float) -> str:
    """`14:02:11` today, with the date on other days."""
    then = datetime.fromtimestamp(at).astimezone()
    same_day = then.date() == datetime.now().astimezone().date()
    return then.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S")


def _refusal(paths: RunPaths, other: Driver | None) -> UsageError:
    who = other.who if other is not None else "another process"
    return UsageError(
        f"Run {paths.run_id} is driven already: {who}.",
        log=str(paths.logs),
        go_on=f"python fleet.py watch {paths.run_id}, or python fleet.py stop {paths.run_id}",
    )


def _lock(stream: IO[str]) -> bool:
    """Whether the lock was free; readers hold it for an instant, so a few tries."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False
