"""The end of a run's log files, as text; follows them while the run has a driver.

One file a mission and one of the driver, in `logs/`. A line of JSON is shown as words.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet.driver.driver_lock import driver_of
from fleet.errors import NotFoundError
from fleet.monitor.mission_log import parse
from fleet.monitor.mission_log import show as in_words
from fleet.settings import RunPaths

POLL_S = 0.5
_SUFFIXES = (".log", ".jsonl")


@dataclass(kw_only=True, slots=True)
class _Tail:
    """One file and how far it was shown."""

    path: Path
    offset: int = 0
    rest: bytes = field(default=b"")

    def new_lines(self) -> list[str]:
        """Whole lines since the last call; starts over where the file was cut."""
        if self.path.stat().st_size < self.offset:
            self.offset, self.rest = 0, b""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            content = stream.read()
        self.offset += len(content)
        *whole, self.rest = (self.rest + content).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]


def show(
    paths: RunPaths,
    wanted: Sequence[str],
    *,
    lines: int,
    follow: bool,
    write: Callable[[str], object],
) -> None:
    """Writes the last lines of each log, and with `follow` what comes after.

    Raises:
        NotFoundError: no log of that name; says which there are.
    """
    tails = {path.name: _Tail(path=path) for path in _files(paths, wanted)}
    several = len(tails) > 1
    for tail in tails.values():
        for line in deque(tail.new_lines(), maxlen=lines):
            write(_shown(tail.path, line, several))
    while follow:
        driver = driver_of(paths)
        over = driver is None or not driver.alive
        for path in _files(paths, wanted):
            tails.setdefault(path.name, _Tail(path=path))
        for tail in tails.values():
            for line in tail.new_lines():
                write(_shown(tail.path, line, several or len(tails) > 1))
        if over:
            return
        time.sleep(POLL_S)


def _files(paths: RunPaths, wanted: Sequence[str]) -> list[Path]:
    found = {
        path.stem: path
        for path in sorted(paths.logs.glob("*"))
        if path.suffix in _SUFFIXES and path.is_file()
    }
    for name in wanted:
        if name not in found:
            known = ", ".join(found) or "none"
            raise NotFoundError(f"Run {paths.run_id} has no log of {name!r}. Logs: {known}.")
    return [path for name, path in found.items() if not wanted or name in wanted]


def _shown(path: Path, line: str, several: bool) -> str:
    text = in_words(parse(line)) if path.suffix == ".jsonl" else line
    return f"{path.stem}: {text}\n" if several else f"{text}\n"
