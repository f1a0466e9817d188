"""SIGTERM during a start that takes it for itself: held, and told to who had it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, sys, threading, time
from fleet.driver.signals import Stopper, sigterm_held

if {threads}:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
stopper = Stopper()
with stopper.installed():
    with sigterm_held():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(15))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        early = stopper.signal_number
    assert stopper.signal_number == signal.SIGTERM, stopper.signal_number
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert early is None or {threads}
    assert signal.getsignal(signal.SIGTERM) == stopper._handle
print("held")
"""


@pytest.mark.parametrize("threads", [False, True])
def test_held_for_who_had_it(threads: bool) -> None:
    """With another thread, which does not block it, the kernel gives the signal to that one."""
    program = PROGRAM.format(threads=threads)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "held\n"), ended.stderr


def test_lifted_after_an_error() -> None:
    program = """
import os, signal
from fleet.driver.signals import Stopper, sigterm_held

stopper = Stopper()
with stopper.installed():
    try:
        with sigterm_held():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ConnectionError
    except ConnectionError:
        print(stopper.asked_by, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "SIGTERM set()\n", ended.stderr


def test_lifted_after_an_interrupt_while_it_is_set() -> None:
    program = """
import signal
from fleet.driver.signals import Stopper, sigterm_held

block = signal.pthread_sigmask

def interrupted(how, mask):
    before = block(how, mask)
    if how == signal.SIG_BLOCK:
        raise KeyboardInterrupt
    return before

with Stopper().installed():
    signal.pthread_sigmask = interrupted
    try:
        with sigterm_held():
            print("not reached")
    except KeyboardInterrupt:
        print(block(signal.SIG_BLOCK, ()))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "set()\n", ended.stderr
