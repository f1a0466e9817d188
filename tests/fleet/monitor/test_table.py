"""The terminal's tables at several sizes, and the plain lines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from fleet.driver.driver_lock import Driver
from fleet.monitor.snapshot import ArmView, MissionView, Snapshot
from fleet.monitor.table import plain_line, render
from fleet.monitor.wording import NONE, clock


def mission(name: str, **changes: object) -> MissionView:
    view = MissionView(
        mission=name,
        title="A title of a mission that is somewhat long",
        phase="running",
        seeds=(0, 1, 2, 3, 4),
        arms=tuple(
            ArmView(arm=f"an_arm_with_a_long_name_{at}", states=states)
            for at, states in enumerate(
                [
                    ("DONE", "FAILED", "RUNNING", "LEASED", "PLANNED"),
                    ("DONE", "DONE", "RUNNING", "STALE", "PLANNED"),
                    ("DONE", "DONE", "RUNNING", "LEASED", "CANCELLED"),
                ]
            )
        ),
        done=5,
        total=15,
        failed=1,
        elapsed_s=100.0,
        eta_s=3725.0,
        verdict=None,
        error=None,
    )
    return replace(view, **changes)


def snapshot(*missions: MissionView) -> Snapshot:
    return Snapshot(
        run_id="a-run-id-of-some-length",
        profile="laptop",
        missions=missions,
        elapsed_s=61.0,
        silent_s=0.5,
        wall_s=None,
        interrupted=False,
        alive=True,
    )


def lines_at(width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(render(snapshot(*map(mission, "ABCDE")), width=width, height=height))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("height", [24, 50])
def test_it_fits_the_terminal(width: int, height: int) -> None:
    lines = lines_at(width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "1:02:05" in text, "the last column is never cut"
    assert "5/15" in text


def test_a_tall_terminal_shows_every_arm() -> None:
    tall, short = "\n".join(lines_at(100, 50)), "\n".join(lines_at(100, 24))
    assert tall.count("an_arm_with") == 15
    assert "✓✗●○·" in tall
    assert "an_arm_with" not in short
    assert "✓✗●?·" in short, "one mark a seed: the state that most needs to be seen"


def test_plain_lines_tell_changes_only() -> None:
    first = snapshot(mission("A"))
    assert plain_line(None, first) == ["[1:01] A running 5/15 runs 1 failed about 1:02:05 left"]
    assert plain_line(first, first) == []
    later = snapshot(mission("A", done=6))
    assert len(plain_line(first, later)) == 1
    assert plain_line(None, snapshot(mission("A", phase="waiting"))) == []


def test_a_dead_run_is_not_shown_running() -> None:
    dead = replace(snapshot(mission("A")), alive=False, driver=driver(alive=False))
    assert dead.over
    text = shown(dead)
    assert "driver gone since 1970" in text
    assert "python fleet.py resume a-run-id-of-some-length" in text
    assert plain_line(None, dead)[0].endswith(dead.trouble)
    stopped = replace(dead, interrupted=True, ended_by="stopped by SIGTERM")
    assert "stopped by SIGTERM: python fleet.py resume" in shown(stopped)
    broken = replace(dead, ended_by="StorageError: disk full")
    assert "ended: StorageError: disk full: python fleet.py resume" in shown(broken)


def test_a_driver_that_hangs_is_told_from_one_that_is_slow() -> None:
    slow = replace(snapshot(mission("A")), driver=driver(alive=True), at=110.0)
    assert slow.trouble == ""
    hung = replace(slow, at=140.0)
    assert not hung.over
    assert "driver (process 77) silent for 40 s: python fleet.py stop" in shown(hung)


def driver(*, alive: bool) -> Driver:
    return Driver(
        pid=77,
        process_started=50.0,
        host="here",
        session="s",
        since=60.0,
        command="launch",
        alive=alive,
        seen=100.0,
    )


def shown(view: Snapshot) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render(view, width=100, height=40))
    return capture.get()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, NONE), (0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"), (-3, "0:00")],
)
def test_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text
