"""Faults of the driver, the ledger's and the stats actor's processes and the disk, for real.

One run is hit again and again, and resumed each time; at its end it must say what a run says that
nothing happened to, to the bit: 0 rows lost, 0 twice. `benchmarks/driver_kills.py` does the same
with many more points.
"""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from launched import (
    Launched,
    Outcome,
    launch_registering,
    left_behind,
    outcome,
    registered,
    sessions,
)

from fleet import cli
from fleet.driver.driver_lock import driver_of
from fleet.ledger.database import is_begun
from fleet.ledger.reader import LedgerReader
from fleet.settings import RunPaths
from fleet.states import RunState

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
MISSIONS = ["--missions", "F1,F2", "--cpus", "2"]
# Packs that are long enough for a run to be hit five times before it is over.
MISSIONS += ["--set", "params.pack_s=4", "--set", "seeds=[0,1,2,3]"]
MISSIONS += ["--set", "F1:params.effect=0.4", "--set", "F2:params.effect=0.0"]
RUNS = 24


@dataclass
class Hit:
    """The run that was hit, and what was seen on the way."""

    paths: RunPaths
    exit_codes: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    results_at_resume: list[int] = field(default_factory=list)
    actors_back_s: float = 0.0
    """From the death of the ledger's and the stats actor's process to the next result."""
    second_driver: tuple[int, float, str] = (0, 0.0, "")
    integrity: str = ""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("calm")
    paths = RunPaths(root=folder / "calm")
    driver = launch_registering(folder, paths, MISSIONS)
    assert driver.wait() == 0, driver.said
    assert {name for name, _ in registered(paths)} == {"scratch:F1@champion"}, "F1 earned PROMOTE"
    return outcome(paths)


@pytest.fixture(scope="module")
def hit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hit]:
    folder = tmp_path_factory.mktemp("hit")
    rng = np.random.default_rng(20261126)
    found = Hit(paths=RunPaths(root=folder / "hit"))

    def results() -> int:
        if not is_begun(found.paths.ledger):
            return 0
        with LedgerReader(found.paths.ledger) as reader:
            return len(reader.results())

    def leave(driver: Launched) -> None:
        found.exit_codes.append(driver.wait())
        found.said.append(driver.said)

    driver = launch_registering(folder, found.paths, MISSIONS)
    driver.until("a first result", lambda: results() > 0)
    for title in ("ray::Ledger", "ray::StatsService"):
        process = driver.until(title, lambda title=title: driver.child(title))
        process.kill()
    before, killed = results(), time.monotonic()
    driver.until("a result after the ledger's death", lambda: results() > before)
    found.actors_back_s = time.monotonic() - killed
    time.sleep(rng.uniform(0, 1))
    driver.kill()
    found.exit_codes.append(driver.process.returncode)
    found.status.append(status(found.paths))

    found.results_at_resume.append(results())
    resumed_at = time.time()
    driver = Launched(folder, "resume", "hit")
    driver.until("the lock", lambda: (d := driver_of(found.paths)) is not None and d.alive)
    found.second_driver = resume_beside(found.paths)
    ledger = driver.until("the ledger", lambda: driver.child("ray::Ledger"))
    driver.until("a worker", lambda: attempts(found.paths, since=resumed_at))
    time.sleep(rng.uniform(0, 1))
    resource.prlimit(ledger.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    leave(driver)
    found.integrity = integrity(found.paths)
    found.status.append(status(found.paths))

    found.results_at_resume.append(results())
    resumed_at = time.time()
    driver = Launched(folder, "resume", "hit")
    driver.until("a worker", lambda: attempts(found.paths, since=resumed_at))
    assert cli.run(["stop", "hit", "--runs-dir", str(folder)]) == 0
    leave(driver)
    found.status.append(status(found.paths))

    found.results_at_resume.append(results())
    driver = Launched(folder, "resume", "hit")
    time.sleep(rng.uniform(1, 20))  # in Ray's start, in training, or when all is said
    if driver.process.poll() is None:
        driver.kill()
    found.results_at_resume.append(results())
    driver = Launched(folder, "resume", "hit")
    leave(driver)
    yield found
    assert left_behind(sessions(found.paths)) == []


def attempts(paths: RunPaths, *, since: float) -> bool:
    """Whether a worker has reported since then."""
    with LedgerReader(paths.ledger) as reader:
        return any(attempt.started_at > since for attempt in reader.attempts())


def status(paths: RunPaths) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.run(["status", paths.run_id, "--runs-dir", str(paths.root.parent)]) == 0
    return " ".join(out.getvalue().split())


def resume_beside(paths: RunPaths) -> tuple[int, float, str]:
    """A second driver while one is at work: exit code, seconds, what it said."""
    import contextlib
    import io

    err = io.StringIO()
    started = time.monotonic()
    with contextlib.redirect_stderr(err):
        code = cli.run(["resume", paths.run_id, "--runs-dir", str(paths.root.parent)])
    return code, time.monotonic() - started, err.getvalue()


def integrity(paths: RunPaths) -> str:
    cx = sqlite3.connect(paths.ledger)
    try:
        return str(cx.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        cx.close()


def test_the_end_is_that_of_a_calm_run(
    hit: Hit, calm: Outcome, record_property: Callable[[str, object], None]
) -> None:
    record_property("actors_back_s", round(hit.actors_back_s, 1))
    assert hit.exit_codes[-1] == 0, hit.said[-1]
    assert hit.exit_codes[0] == -9
    ours = outcome(hit.paths)
    assert len(ours.results) == RUNS
    assert len({row[1] for row in ours.results}) == RUNS, "one row a key"
    assert ours == calm
    with LedgerReader(hit.paths.ledger) as reader:
        assert {row.state for row in reader.runs()} == {RunState.DONE}
        assert len(reader.decisions()) > 0, "the chain holds"
        assert {pack.tries for pack in reader.packs()} <= {1}, "a driver's death costs no attempt"


def test_finished_runs_were_not_run_again(hit: Hit) -> None:
    """Every run reached DONE once, however often its launch was killed."""
    assert hit.results_at_resume == sorted(hit.results_at_resume)
    cx = sqlite3.connect(hit.paths.ledger)
    done = cx.execute(
        "SELECT run, count(*) FROM moves WHERE after = 'DONE' GROUP BY run"
    ).fetchall()
    cx.close()
    assert {count for _, count in done} == {1}


def test_a_dead_driver_is_shown_as_gone(hit: Hit) -> None:
    assert "driver gone since" in hit.status[0]
    assert "python fleet.py resume hit" in hit.status[0]


def test_the_second_driver_is_refused_within_two_seconds(
    hit: Hit, record_property: Callable[[str, object], None]
) -> None:
    code, took_s, said = hit.second_driver
    assert code == 2
    record_property("second_driver_s", round(took_s, 2))
    assert took_s < 2
    assert "is driven already: process" in said


def test_a_full_disk_ends_in_exit_5_with_a_ledger_that_is_whole(hit: Hit) -> None:
    assert hit.exit_codes[1] == 5, hit.said[0]
    assert "next: python fleet.py resume hit" in hit.said[0]
    assert hit.integrity == "ok"
    assert "ended: StorageError" in hit.status[1]


def test_stop_from_another_terminal_ends_in_order(hit: Hit) -> None:
    assert hit.exit_codes[2] == 143, hit.said[1]
    assert "Stopped by python fleet.py stop; finished runs are kept." in hit.said[1]
    assert "stopped by python fleet.py stop: python fleet.py resume hit" in hit.status[2]
