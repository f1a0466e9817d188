"""Launches of fakes as processes of their own, to be killed, stopped and resumed by tests."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fleet.driver.leftovers import SESSION_VARIABLE
from fleet.ledger.reader import LedgerReader
from fleet.registry.reader import RegistryReader
from fleet.settings import RunPaths

ROOT = Path(__file__).resolve().parents[2]
FAKES = Path(__file__).resolve().parent


class Launched:
    """One driver in its own process group; what it says is collected."""

    def __init__(self, runs_dir: Path, *arguments: str, **environment: str) -> None:
        path = f"{ROOT}{os.pathsep}{FAKES}"
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(FAKES / "fake_launch.py"),
                *arguments,
                "--runs-dir",
                str(runs_dir),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
            process_group=0,
        )
        self.lines: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def kill(self) -> None:
        """SIGKILL to the driver alone, as the kernel's memory killer does it."""
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout_s: float = 200.0) -> int:
        """The exit code."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no end after {timeout_s:.0f} s:\n{self.said}") from None
        self._listener.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code

    def until(self, what: str, seen: Callable[[], Any], timeout_s: float = 120.0) -> Any:
        """Waits for something to happen while the driver lives."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = seen()
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{what}: did not happen:\n{self.said}")

    def child(self, title: str) -> psutil.Process | None:
        """A Ray process of this driver by its title, such as `ray::Ledger`."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(title):
                    return process
            except psutil.Error:
                continue
        return None


def launch_registering(runs_dir: Path, paths: RunPaths, missions: Sequence[str]) -> Launched:
    """A launch that registers what it promotes in a registry of its own."""
    where = ["--run-id", paths.run_id, "--registry", str(registry_of(paths))]
    return Launched(runs_dir, "launch", *where, *missions)


def launch_or_resume(runs_dir: Path, paths: RunPaths, missions: Sequence[str]) -> Launched:
    """A resume; or a launch anew, where a kill came before the order was written."""
    if paths.order.is_file():
        return Launched(runs_dir, "resume", paths.run_id)
    if paths.root.is_dir():
        for path in paths.root.iterdir():
            path.unlink()
        paths.root.rmdir()
    return launch_registering(runs_dir, paths, missions)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What counts of a run, without times and places."""

    results: tuple[tuple[str, str, str, str, str], ...]
    """(run, key, digest of the scores, cost, figures)."""
    verdicts: dict[str, str]
    registered: frozenset[tuple[str, str]]
    """(line@alias, model id) in the registry of the run; an id is a digest of the weights."""
    digest: str
    bodies: dict[str, str]
    """Digest of every verdict, reasons and intervals included."""


def outcome(paths: RunPaths) -> Outcome:
    """Reads it from the ledger; every result must have its score file."""
    with LedgerReader(paths.ledger) as reader:
        rows = reader.results()
        campaign = reader.latest("campaign")
    assert campaign is not None
    assert all((paths.scores / row.scores_file).is_file() for row in rows)
    return Outcome(
        results=tuple(
            (row.run, row.key, row.scores_digest, row.cost_json, row.figures_json) for row in rows
        ),
        verdicts=dict(campaign["verdicts"]),
        registered=registered(paths),
        digest=str(campaign["verdict_digest"]),
        bodies=dict(campaign["bodies"]),
    )


def registry_of(paths: RunPaths) -> Path:
    """A registry for this run alone."""
    return paths.root.parent / f"registry-{paths.run_id}"


def registered(paths: RunPaths) -> frozenset[tuple[str, str]]:
    """What the run left in its registry; empty where it has none."""
    if not registry_of(paths).is_dir():
        return frozenset()
    with RegistryReader(registry_of(paths)) as reader:
        return frozenset((row.name, row.model) for row in reader.aliases())


def sessions(paths: RunPaths) -> list[str]:
    """The tokens of the drivers that worked on a run."""
    with LedgerReader(paths.ledger) as reader:
        return [row.session for row in reader.sessions()]


def done_twice(paths: RunPaths) -> int:
    """Runs that reached DONE more than once: work that was done again."""
    cx = sqlite3.connect(paths.ledger)
    rows = cx.execute("SELECT count(*) FROM moves WHERE after = 'DONE' GROUP BY run").fetchall()
    cx.close()
    return sum(number - 1 for (number,) in rows)


def left_behind(sessions: list[str], *, within_s: float = 15.0) -> list[str]:
    """Processes that carry one of these tokens and do not end within that time: Ray's run at a low
    priority, and on a busy machine the last of them outlive their driver by seconds."""
    deadline = time.monotonic() + within_s
    while (found := _carrying(sessions)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _carrying(sessions: list[str]) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SESSION_VARIABLE) in sessions:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        except (psutil.Error, OSError):
            continue
    return found
