"""A launch that is told to stop by a signal: Ctrl-C once, twice, SIGTERM to its whole group; at
work and while it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from launched import Launched

from fleet.driver.signals import ECHO_S
from fleet.ledger.reader import LedgerReader
from fleet.states import RunState

pytestmark = [pytest.mark.ray, pytest.mark.slow]
IN_ORDER_S, AT_ONCE_S = 30.0, 5.0
CROWDED = 1.5
"""A crowded machine may take this much longer."""
LAUNCH = ["launch", "--missions", "F1", "--run-id", "stopped", "--cpus", "1", "--no-promote"]
LAUNCH += ["--set", "params.steps=4000", "--set", "params.step_s=0.05"]


def at_work(folder: Path) -> tuple[Launched, list[psutil.Process]]:
    """A launch whose worker trains and has written a checkpoint, and all its processes."""
    driver = Launched(folder, *LAUNCH)
    driver.until("a checkpoint", lambda: checkpoints(folder))
    return driver, psutil.Process(driver.process.pid).children(recursive=True)


def checkpoints(folder: Path) -> list[float]:
    """Times of the checkpoints that are there."""
    times = []
    for where, _, files in os.walk(folder / "stopped" / "work" / "F1" / "checkpoints"):
        if "manifest.json" in files:
            with contextlib.suppress(FileNotFoundError):  # the oldest goes when a new one comes
                times.append((Path(where) / "manifest.json").stat().st_mtime)
    return sorted(times)


def nothing_is_left(driver: Launched, family: list[psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
    assert gone
    assert not list(Path("/tmp").glob(f"bf-{driver.process.pid}-*"))


@pytest.mark.parametrize(
    ("name", "code", "to_the_group"), [("SIGINT", 130, False), ("SIGTERM", 143, True)]
)
def test_one_signal_ends_in_order(
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    name: str,
    code: int,
    to_the_group: bool,
) -> None:
    """Batch systems signal the child and then its group: within a second that is one signal."""
    driver, family = at_work(tmp_path)
    number = signal.Signals[name]
    told, started = time.time(), time.monotonic()
    if to_the_group:
        os.killpg(driver.process.pid, number)
    driver.process.send_signal(number)
    assert driver.wait(120) == code, driver.said
    took_s = time.monotonic() - started
    record_property(f"{name}_s", round(took_s, 1))
    assert took_s < IN_ORDER_S * CROWDED
    assert f"Stopped by {name}; finished runs are kept." in driver.said
    assert "next: python fleet.py resume stopped" in driver.said
    assert checkpoints(tmp_path)[-1] > told - 0.1, "the worker kept what it had"
    with LedgerReader(tmp_path / "stopped" / "ledger.sqlite") as reader:
        assert {row.state for row in reader.runs()} == {RunState.CANCELLED}
        assert reader.missions()[0].phase == "cancelled"
    nothing_is_left(driver, family)


def gcs_is_up(driver: Launched) -> bool:
    """Ray starts: its first daemon is there and `ray.init` has yet to return."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(driver.process.pid).children(recursive=True)
        return any("gcs_server" in " ".join(child.cmdline()[:1]) for child in children)
    return False


def mission_starts(driver: Launched) -> bool:
    """The thread of the trainer runs; its controller's process has yet to come."""
    return "F1 starting" in driver.said


@pytest.mark.parametrize("moment", [gcs_is_up, mission_starts])
def test_a_signal_during_a_start_ends_in_order(
    tmp_path: Path, moment: Callable[[Launched], bool]
) -> None:
    """Ray takes SIGTERM for itself as it starts, and aborts where a thread is in it as it ends."""
    driver = Launched(tmp_path, *LAUNCH)
    family: dict[int, psutil.Process] = {}

    def seen() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(driver.process.pid).children(recursive=True)
            family.update({child.pid: child for child in children})
        return moment(driver)

    driver.until(moment.__name__, seen)
    driver.process.send_signal(signal.SIGTERM)
    while driver.process.poll() is None:
        seen()
        time.sleep(0.1)
    assert driver.wait(1) == 143, driver.said
    assert "Stopped by SIGTERM; finished runs are kept." in driver.said
    assert "next: python fleet.py resume stopped" in driver.said
    nothing_is_left(driver, list(family.values()))


def test_the_second_signal_ends_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    driver, family = at_work(tmp_path)
    driver.process.send_signal(signal.SIGINT)
    time.sleep(ECHO_S + 0.2)
    if driver.process.poll() is not None:
        pytest.skip("the launch had ended before it could be told twice")
    started = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    assert driver.wait(120) == 130, driver.said
    took_s = time.monotonic() - started
    record_property("second_SIGINT_s", round(took_s, 1))
    assert took_s < AT_ONCE_S * CROWDED
    assert "python fleet.py resume stopped" in driver.said
    nothing_is_left(driver, family)
