"""Processes of a dead driver are found by their token; nobody else's are touched."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from fleet.driver import leftovers

SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]


def start(session: str | None, command: list[str] = SLEEP) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != leftovers.SESSION_VARIABLE}
    if session is not None:
        environment[leftovers.SESSION_VARIABLE] = session
    return subprocess.Popen(command, env=environment)


def test_only_what_carries_the_token_is_ended() -> None:
    parent = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEP!r})"]
    ours, foreign, nameless = start("mine", parent), start("another"), start(None)
    try:
        while not psutil.Process(ours.pid).children():
            pass
        family = {ours.pid, *(child.pid for child in psutil.Process(ours.pid).children())}
        while {process.pid for process in leftovers.find(["mine"])} != family:
            pass  # a child carries its token from its exec on
        assert len(leftovers.end(["mine", ""])) == 2
        ours.wait(10)
        assert not leftovers.find(["mine"])
        assert foreign.poll() is None
        assert nameless.poll() is None
        assert leftovers.end(["mine"]) == []
    finally:
        for child in (ours, foreign, nameless):
            child.kill()
            child.wait()


def test_a_number_that_went_to_another_process_is_left_alone() -> None:
    child = start(None)
    try:
        started = psutil.Process(child.pid).create_time()
        assert not leftovers.kill(child.pid, started - 5)
        assert child.poll() is None
        assert leftovers.kill(child.pid, started)
        assert child.wait(10) == -9
        assert not leftovers.kill(child.pid, started)
    finally:
        child.kill()
        child.wait()
