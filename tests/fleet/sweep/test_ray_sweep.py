"""Sweeps through real Ray Tune: the best setting is found, a killed driver loses no trial.

The fake's dev score is highest at a known learning rate. What Ray finds is compared with the same
search run in this process: equal to the last bit, in whatever order trials ended.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_catalog import BEST_RATE, resolve

from fleet.driver.launch import Order, carry_out
from fleet.ledger.database import is_begun
from fleet.ledger.reader import LedgerReader
from fleet.provenance import code_version
from fleet.settings import RunPaths
from fleet.states import RunState
from fleet.sweep.records import TrialRow
from missions.spec import MissionSpec

pytestmark = [
    pytest.mark.ray,
    # Ray's own: building a trainer touches deprecated fields of its data context.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
HERE = Path(__file__).resolve().parent
FAKES = HERE.parent
ROOT = FAKES.parents[1]
SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 8,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"treated": {}, "plain": {}},
    "follow": {"extra": ["plain"]},
    "rungs": [{"params.training.steps": 2}, {"params.training.steps": 8}],
}


def overrides(**params: Any) -> tuple[str, ...]:
    text = yaml.safe_dump(SWEEP, default_flow_style=True, width=10_000).strip()
    return (f"F1:sweep={text}", *(f"F1:params.{key}={value}" for key, value in params.items()))


def spec_of(**params: Any) -> MissionSpec:
    return resolve("F1", overrides=tuple(item.removeprefix("F1:") for item in overrides(**params)))


def without_time(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(r.key, r.arm, r.number, r.rung, r.settings, r.seed_scores, r.cost) for r in rows]


def test_a_launch_sweeps_freezes_and_confirms(tmp_path: Path) -> None:
    from sweep_reference import run_here

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = carry_out(
            Order(
                missions=("F1", "F2"),
                arms=(),
                profile="laptop",
                overrides=overrides(),
                run_id="one",
                dry_run=False,
                as_json=True,
                require_promotion=False,
                address=None,
                cpus=2,
                runs_dir=tmp_path,
                catalog="fake_catalog",
                worker_env={"PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}"},
            )
        )
    assert code == 0, err.getvalue()
    expected = run_here(spec_of(), tmp_path / "here", code_version())
    with LedgerReader(tmp_path / "one" / "ledger.sqlite") as reader:
        links = [link for link in reader.decisions() if link.body.get("mission") == "F1"]
        trials = reader.trials("F1")
        assert reader.trials("F2") == []
        confirmed = MissionSpec.model_validate_json(reader.swept_spec_json("F1") or "")
        asked = MissionSpec.model_validate_json(reader.spec_json("F1"))
        tests = {row.arm for row in reader.results("F1")}
    # The best setting is found, by both arms, and the follower takes its leader's.
    rates = {arm: confirmed.arms[arm].override["training"]["lr"] for arm in confirmed.arms}
    assert rates["extra"] == rates["plain"]
    for arm in ("treated", "plain"):
        assert BEST_RATE / 2 < rates[arm] < BEST_RATE * 2, rates
    assert asked.arms["plain"].override == {}
    # Equal budgets: 8 settings, 4 of them at the second rung.
    count = [(row.arm, row.rung) for row in trials]
    for arm in ("treated", "plain"):
        assert (count.count((arm, 0)), count.count((arm, 1))) == (8, 4)
    ordered = sorted(expected.rows, key=lambda row: (row.arm, row.rung, row.number))
    assert without_time(trials) == without_time(ordered)
    # Frozen with the choice, before the first look at the test split, which every arm then had.
    kinds = [link.kind for link in links]
    assert kinds[:4] == ["mission_file", "sweep", "freeze", "test_read"]
    assert links[2].body["arm_hashes"] == {a: confirmed.arm_digest(a) for a in confirmed.arms}
    assert tests == {"treated", "plain", "extra"}
    page = (tmp_path / "one" / "report" / "index.html").read_text()
    assert "Sweep on dev: what was chosen" in page
    assert "with the same budget of 8 settings in 12 trials each" in page
    document = json.loads(out.getvalue())
    first = next(row for row in document["missions"] if row["mission"] == "F1")
    assert (
        first["sweep"]["choice"]["choices"]["plain"]["settings"]["params.training.lr"]
        == (rates["plain"])
    )


@pytest.mark.slow
def test_a_killed_driver_of_a_sweep_loses_no_trial(tmp_path: Path) -> None:
    from sweep_reference import run_here

    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}"}
    command = [sys.executable, str(FAKES / "fake_launch.py"), "sweep", "--missions", "F1"]
    command += ["--run-id", "killed", "--runs-dir", str(tmp_path), "--cpus", "1"]
    for item in overrides(trial_s=0.5):
        command += ["--set", item]
    ledger = tmp_path / "killed" / "ledger.sqlite"

    def kept() -> list[TrialRow]:
        if not ledger.is_file():
            return []
        with LedgerReader(ledger) as reader:
            return reader.trials("F1")

    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, process_group=0)
    until = time.monotonic() + 200
    while len(kept()) < 5 and time.monotonic() < until and child.poll() is None:
        time.sleep(0.1)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = kept()
    assert 5 <= len(before) < 24
    log = tmp_path / "killed" / "work" / "F1" / "sweep" / "trained.txt"
    again = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=280
    )
    assert again.returncode == 0, again.stderr
    expected = run_here(spec_of(trial_s=0), tmp_path / "here", code_version())
    after = kept()
    # Rows of before as they were, their CPU and wall time included.
    recorded = {row.key for row in before}
    assert [row for row in after if row.key in recorded] == before
    chosen = json.loads(again.stdout)["sweeps"][0]["choice"]["choices"]
    assert {arm: found["settings"] for arm, found in chosen.items()} == {
        choice.arm: dict(choice.settings) for choice in expected.choices
    }
    # What was finished was not trained again: at most the trial under way was.
    trained = log.read_text().splitlines()
    assert len(set(trained)) == len(after) == 24
    assert len(trained) <= 25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "code", "said"),
    [
        ("disk", 5, "No space left on device"),
        ("memory", 1, "left no result in 3 attempts: F1, trial 2 of arm"),
        ("dies", 1, "left no result in 3 attempts"),
    ],
)
def test_what_no_setting_is_to_blame_for_is_tried_again(
    tmp_path: Path, trouble: str, code: int, said: str
) -> None:
    """Disk, memory, a process that is killed: no row, no choice; mended, the same command ends."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}"}
    command = [sys.executable, str(FAKES / "fake_launch.py"), "sweep", "--missions", "F1"]
    command += ["--run-id", "one", "--runs-dir", str(tmp_path), "--cpus", "1"]
    for item in overrides(trouble=trouble):
        command += ["--set", item]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)

    def kept() -> list[TrialRow]:
        with LedgerReader(tmp_path / "one" / "ledger.sqlite") as reader:
            assert (reader.swept_spec_json("F1") is None) is not mended.exists()
            return reader.trials("F1")

    mended = tmp_path / "one" / "work" / "F1" / "sweep" / "mended"
    first = run()
    assert first.returncode == code, first.stderr
    assert said in first.stderr
    assert "--run-id one" in first.stderr
    assert "Traceback" not in first.stderr
    before = kept()
    assert before
    assert all(row.error == "" for row in before)
    mended.touch()
    again = run()
    assert again.returncode == 0, again.stderr
    assert len(kept()) == 24


@pytest.mark.slow
def test_a_launch_killed_in_its_sweep_resumes_to_the_same_choice(tmp_path: Path) -> None:
    """Resume goes on with the recorded trials, freezes the same settings and confirms them."""
    from launched import Launched
    from sweep_reference import run_here

    paths = RunPaths(root=tmp_path / "one")
    words = ["launch", "--missions", "F1", "--run-id", "one", "--cpus", "1", "--no-promote"]
    for item in overrides(trial_s=0.3):
        words += ["--set", item]

    def kept() -> list[TrialRow]:
        if not is_begun(paths.ledger):
            return []
        with LedgerReader(paths.ledger) as reader:
            return reader.trials("F1")

    first = Launched(tmp_path, *words)
    first.until("five trials", lambda: len(kept()) >= 5, timeout_s=200)
    first.kill()
    before = kept()
    assert 5 <= len(before) < 24
    again = Launched(tmp_path, "resume", "one")
    assert again.wait() == 0, again.said
    expected = run_here(spec_of(trial_s=0), tmp_path / "here", code_version())
    recorded = {row.key for row in before}
    assert [row for row in kept() if row.key in recorded] == before
    with LedgerReader(paths.ledger) as reader:
        confirmed = MissionSpec.model_validate_json(reader.settled_spec_json("F1"))
        kinds = [link.kind for link in reader.decisions()]
        assert {row.state for row in reader.runs("F1")} == {RunState.DONE}
    for choice in expected.choices:
        rate = choice.settings["params.training.lr"]
        assert confirmed.arms[choice.arm].override["training"]["lr"] == rate
    assert kinds[:5] == ["mission_file", "resume", "sweep", "freeze", "test_read"]
    trained = (paths.work("F1") / "sweep" / "trained.txt").read_text().splitlines()
    assert len(set(trained)) == len(kept()) == 24
    assert len(trained) <= 25, "at most the trial under way was trained again"


@pytest.mark.slow
def test_a_trial_may_be_trained_by_a_group(tmp_path: Path) -> None:
    """`ddp` on as many CPUs as the group has workers: the trial beside it must not take any."""
    from sweep_reference import run_here

    arms = {"arms": {"treated": {}}, "trials": 2, "rungs": [{}]}
    untuned = {"follow": {}, "untuned": {"plain": "not here", "extra": "not here"}}
    text = yaml.safe_dump({**SWEEP, **arms, **untuned}, default_flow_style=True, width=10_000)
    patches = (f"sweep={text.strip()}", "resources.strategy=ddp", "resources.workers=2")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}"}
    command = [sys.executable, str(FAKES / "fake_launch.py"), "sweep", "--missions", "F1"]
    command += ["--run-id", "one", "--runs-dir", str(tmp_path), "--cpus", "2"]
    for patch in patches:
        command += ["--set", f"F1:{patch}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    with LedgerReader(tmp_path / "one" / "ledger.sqlite") as reader:
        trials = reader.trials("F1")
    spec = resolve("F1", overrides=patches)
    expected = run_here(spec, tmp_path / "here", code_version())
    assert [(row.key, row.score) for row in trials] == [
        (row.key, row.score) for row in expected.rows
    ]
