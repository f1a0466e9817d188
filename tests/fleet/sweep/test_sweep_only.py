"""`fleet.py sweep` without Ray: killed and gone on with, stopped, cancelled, what it tells."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_catalog import resolve
from sweep_reference import run_here
from sweep_without_ray import leave_ray_out

from fleet import cli, provenance
from fleet.driver import requests
from fleet.driver.launch import Order
from fleet.driver.stopping import going_on
from fleet.errors import InterruptedBySignalError, StorageError, SweepError, UsageError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.monitor.snapshot import take
from fleet.settings import RunPaths
from fleet.sweep import only
from fleet.sweep.records import Trial, TrialRow
from fleet.sweep.settling import settled_spec
from fleet.sweep.tuning import TuneSweep
from missions.spec import MissionSpec

SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 4,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"treated": {}, "plain": {}},
    "follow": {"extra": ["plain"]},
    "rungs": [{"params.training.steps": 2}, {"params.training.steps": 8}],
}
ALL_TRIALS = 2 * (4 + 2)
Hook = Callable[[TuneSweep, Trial], None]
HERE = Path(__file__).resolve().parent
FAKES, ROOT = HERE.parent, HERE.parents[2]
DIES = """
import os, signal, sys
from pathlib import Path
import pytest
from sweep_without_ray import leave_ray_out
from test_sweep_only import after, order
from fleet.sweep import only

die = after(5, lambda sweep: os.kill(os.getpid(), signal.SIGKILL))
leave_ray_out(pytest.MonkeyPatch(), die)
only.carry_out(order(Path(sys.argv[1])), trials=None)
"""


def overrides(mission: str) -> tuple[str, ...]:
    text = yaml.safe_dump(SWEEP, default_flow_style=True, width=10_000).strip()
    return (f"{mission}:sweep={text}",)


def spec_of(mission: str = "F1") -> MissionSpec:
    return resolve(mission, overrides=(overrides(mission)[0].removeprefix(f"{mission}:"),))


def order(runs_dir: Path, *missions: str) -> Order:
    names = missions or ("F1",)
    return Order(
        missions=names,
        arms=(),
        profile="laptop",
        overrides=tuple(item for name in names for item in overrides(name)),
        run_id="one",
        dry_run=False,
        as_json=False,
        require_promotion=False,
        address=None,
        cpus=2,
        runs_dir=runs_dir,
        catalog="fake_catalog",
    )


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(root=tmp_path / "runs" / "one")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*missions: str, before: Hook = lambda sweep, trial: None) -> int:
        leave_ray_out(monkeypatch, before)
        return only.carry_out(order(tmp_path / "runs", *missions), trials=None)

    return run


def trials(paths: RunPaths, mission: str = "F1") -> list[TrialRow]:
    with LedgerReader(paths.ledger) as reader:
        return reader.trials(mission)


def trained(paths: RunPaths) -> list[str]:
    return (paths.work("F1") / "sweep" / "trained.txt").read_text().splitlines()


def after(count: int, act: Callable[[TuneSweep], None]) -> Hook:
    """Acts before the trial that comes after `count` others."""
    seen: list[Trial] = []

    def before(sweep: TuneSweep, trial: Trial) -> None:
        seen.append(trial)
        if len(seen) == count + 1:
            act(sweep)

    return before


def test_a_driver_killed_in_its_sweep_is_gone_on_with(
    sweep: Callable[..., int], paths: RunPaths, tmp_path: Path
) -> None:
    """The same choice as in one go; what was recorded is neither run again nor written again."""

    (paths.root.parent).mkdir()
    child = subprocess.run(
        [sys.executable, "-c", DIES, str(paths.root.parent)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, FAKES, HERE)))},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    recorded = trials(paths)
    assert len(recorded) == 5
    assert sweep() == 0
    expected = run_here(spec_of(), tmp_path / "here", provenance.code_version())
    now = trials(paths)
    keys = {row.key for row in recorded}
    assert [row for row in now if row.key in keys] == recorded
    assert len(now) == len(trained(paths)) == len(set(trained(paths))) == ALL_TRIALS
    assert {row.key: row.score for row in now} == {row.key: row.score for row in expected.rows}
    with LedgerReader(paths.ledger) as reader:
        chosen = settled_spec(reader, spec_of())
    assert chosen is not None
    for choice in expected.choices:
        rate = choice.settings["params.training.lr"]
        assert chosen.arms[choice.arm].override == {"training": {"lr": rate}}
    assert sweep() == 0, "and once more there is nothing left to do"
    assert len(trained(paths)) == ALL_TRIALS


def test_a_stop_is_heard_and_says_how_to_go_on(
    sweep: Callable[..., int], paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(sweep: TuneSweep) -> None:
        requests.ask(paths, "stop")
        assert sweep._stop.wait(20)

    with pytest.raises(InterruptedBySignalError) as stopped:
        sweep(before=after(3, ask))
    again = stopped.value.go_on
    words = shlex.split(again)
    assert words[words.index("--run-id") + 1] == "one"
    assert words[words.index("--runs-dir") + 1] == str(paths.root.parent)
    assert words[words.index("--cpus") + 1] == "2"
    with LedgerReader(paths.ledger) as reader:
        assert reader.sessions()[-1].how == "stopped by python fleet.py stop"
        assert again in take(reader, now=0.0).trouble
    assert cli.run(["resume", "one", "--runs-dir", str(paths.root.parent)]) == 2
    told = capsys.readouterr().err
    assert "Run one is a run of sweeps" in told
    assert going_on(paths) == again
    assert f"next: {again}" in told
    assert sweep() == 0


def test_a_cancelled_mission_ends_its_sweep_and_no_other(
    sweep: Callable[..., int], paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(sweep: TuneSweep) -> None:
        requests.ask(paths, "cancel", sweep._spec.id)
        sweep._stop.wait(5)

    both = after(2, ask)

    def only_f1(sweep: TuneSweep, trial: Trial) -> None:
        if sweep._spec.id == "F1":
            both(sweep, trial)

    assert sweep("F1", "F2", before=only_f1) == 0
    with LedgerReader(paths.ledger) as reader:
        assert {row.mission: row.phase for row in reader.missions()} == {
            "F1": "cancelled",
            "F2": "judged",
        }
        assert settled_spec(reader, spec_of("F2")) is not None
        assert settled_spec(reader, spec_of("F1")) is None
    capsys.readouterr()
    assert sweep("F1", "F2") == 0
    assert "F1: cancelled in this run" in capsys.readouterr().err


def test_a_cancelled_arm_gets_no_more_trials_and_the_others_are_settled(
    sweep: Callable[..., int], paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its search cannot fail the mission either: it has no trial that could be chosen."""
    monkeypatch.setitem(SWEEP, "arms", {"treated": {}, "plain": {}, "extra": {}})
    monkeypatch.delitem(SWEEP, "follow")

    def ask(sweep: TuneSweep) -> None:
        requests.ask(paths, "cancel", "F1", "extra")
        until = time.monotonic() + 20
        while not sweep._search.leaves_out("extra") and time.monotonic() < until:
            time.sleep(0.01)

    assert sweep(before=after(4, ask)) == 0
    with LedgerReader(paths.ledger) as reader:
        trials = reader.trials("F1")
        (choice,) = [link.body for link in reader.decisions() if link.kind == "sweep"]
        confirmed = settled_spec(reader, spec_of())
    # The fifth trial, before which the user asked, is extra's second at most.
    assert sum(row.arm == "extra" for row in trials) <= 2
    assert sorted(choice["choices"]) == ["plain", "treated"]
    assert choice["untuned"] == {"extra": "cancelled before the sweep was settled"}
    assert {c["evaluations"] for c in choice["choices"].values()} == {4 + 2}
    assert confirmed is not None
    assert confirmed.arms["extra"] == spec_of().arms["extra"], "the file's own settings"


def test_events_are_told_however_many_there_were_before(
    sweep: Callable[..., int], paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(sweep: TuneSweep) -> None:
        requests.ask(paths, "stop")
        assert sweep._stop.wait(20)

    with pytest.raises(InterruptedBySignalError):
        sweep(before=after(2, ask))
    ledger = Ledger(paths.ledger)
    for number in range(1100):
        ledger.event("info", "before", f"number {number}")
    ledger.close()
    capsys.readouterr()
    assert sweep() == 0
    told = capsys.readouterr().err
    assert "F1 sweep: plain, trial 4 of 4" in told
    assert "before number" not in told


def test_disk_trouble_ends_the_driver_and_not_the_settings(
    sweep: Callable[..., int], paths: RunPaths
) -> None:
    def full(sweep: TuneSweep) -> None:
        raise StorageError("OSError: [Errno 28] No space left on device")

    with pytest.raises(StorageError) as ended:
        sweep(before=after(4, full))
    assert ended.value.exit_code == 5
    assert "--run-id one" in ended.value.go_on
    with LedgerReader(paths.ledger) as reader:
        assert str(reader.sessions()[-1].how).startswith("StorageError")
    assert all(row.error == "" for row in trials(paths))
    assert sweep() == 0
    assert len(trials(paths)) == ALL_TRIALS


def test_a_sweep_that_finds_nothing_says_how_to_try_again(
    sweep: Callable[..., int], paths: RunPaths
) -> None:
    def lost(sweep: TuneSweep) -> None:
        raise SweepError("trial 2 of arm plain left no result")

    with pytest.raises(SweepError, match="F1") as ended:
        sweep(before=after(2, lost))
    assert "--run-id one" in ended.value.go_on

    def is_open(sweep: TuneSweep, trial: Trial) -> None:
        with LedgerReader(paths.ledger) as reader:
            open_again.append(reader.meta()["wall_s"] is None)

    open_again: list[bool] = []
    assert sweep(before=is_open) == 0
    assert open_again
    assert all(open_again)


def test_a_launch_of_that_name_is_not_taken_for_sweeps(
    sweep: Callable[..., int], paths: RunPaths
) -> None:
    paths.root.mkdir(parents=True)
    with pytest.raises(UsageError, match="is no run of sweeps"):
        sweep()
