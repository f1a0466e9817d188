"""Faults of one worker, injected for real, against a real ledger and real checkpoints; no Ray.

Every test ends with the scores of a calm run, bit for bit, or with a failure that says why.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_bench import Bench

from fleet.states import RunState
from fleet.workers.preemption import Notice

HERE = Path(__file__).resolve()
STEPS = 40
TRAINING: dict[str, Any] = {"steps": STEPS, "step_s": 0.01}


def struck(kind: str, **more: Any) -> dict[str, Any]:
    return {**TRAINING, "fault": {"kind": kind, "step": 25, **more}}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(name: str = "run", **params: Any) -> Bench:
        made.append(Bench(tmp_path / name, **params))
        return made[-1]

    yield make
    for item in made:
        item.close()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Digest of the scores of every run that nothing happened to."""
    fleet = Bench(tmp_path_factory.mktemp("calm"), **{**TRAINING, "step_s": 0.0})
    fleet.worker().run()
    yield digests(fleet)
    fleet.close()


def digests(fleet: Bench) -> dict[str, str]:
    return {row.run: row.scores_digest for row in fleet.reader.results("F1")}


def texts(fleet: Bench, level: str) -> list[str]:
    return [event.text for event in fleet.reader.events(level=level)]


def in_a_process(root: Path, params: dict[str, Any]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join((str(HERE.parents[2]), str(HERE.parents[1] / "fleet")))
    script = HERE.parents[1] / "fleet" / "worker_bench.py"
    return subprocess.Popen(
        [sys.executable, str(script), str(root), json.dumps(params)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def left_over(fleet: Bench) -> list[Path]:
    # Not `rglob`, which fails where a folder that is just being written is renamed meanwhile.
    walk = os.walk(fleet.root / "work" / "F1" / "checkpoints")
    return [Path(where) / name for where, names, _ in walk for name in names if "step_" in name[:5]]


def test_kill_9_in_a_step(
    bench: Callable[..., Bench], calm: dict[str, str], tmp_path: Path
) -> None:
    params = struck("kill")
    assert in_a_process(tmp_path / "run", params).wait(120) == -signal.SIGKILL
    fleet = bench(**params)
    assert fleet.states()["F1-plain-s1"] is RunState.RUNNING
    fleet.worker().run()
    assert digests(fleet) == calm
    packs = {pack.pack: pack.tries for pack in fleet.reader.packs()}
    assert packs == {"F1-s0": 1, "F1-s1": 2, "F1-s2": 1}, "the attempt is counted"
    went_on = [text for text in texts(fleet, "info") if "goes on at step" in text]
    # Checkpoints every 0.05 s, or as often as they may cost 5 %; a step takes 0.01 s at least.
    assert 0 < int(went_on[0].split()[-1]) <= 25
    assert any("found finished" in text for text in texts(fleet, "info")), "the arm before it"
    assert texts(fleet, "alarm") == []
    assert left_over(fleet) == [], "removed when the runs are done"
    checked = [t for t in fleet.reader.timings() if t.stage == "checkpoint"]
    assert checked
    assert all(t.wall_s > 0 for t in checked)


def test_sigterm_writes_a_checkpoint_and_is_not_counted(
    bench: Callable[..., Bench],
    calm: dict[str, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    params = struck("sigterm")
    started = time.monotonic()
    child = in_a_process(tmp_path / "run", params)
    assert child.wait(120) == 0
    assert time.monotonic() - started < 60
    fleet = bench(**params)
    told = float((tmp_path / "run" / "work" / "F1" / "data" / "sigterm-F1-plain-s1").read_text())
    written = max(path.stat().st_mtime for path in left_over(fleet))
    record_property("checkpoint_after_sigterm_s", round(written - told, 2))
    assert written - told < 30
    assert {fleet.states()[f"F1-{arm}-s1"] for arm in ("plain", "extra")} == {RunState.PLANNED}
    moves = fleet.reader._cx.execute(
        "SELECT after, reason FROM moves WHERE run = 'F1-plain-s1' ORDER BY id"
    ).fetchall()
    assert [tuple(move) for move in moves][-2] == ("PREEMPTED", "SIGTERM")
    fleet.worker().run()
    assert digests(fleet) == calm
    assert {pack.tries for pack in fleet.reader.packs()} == {1}, "the retry budget is untouched"
    # Struck in step 25; the signal is handled by the main thread, at most some steps later.
    went_on = [text for text in texts(fleet, "info") if "goes on at step" in text]
    assert 26 <= int(went_on[0].split()[-1]) < 40


def test_a_drained_node_is_left_in_time(bench: Callable[..., Bench], calm: dict[str, str]) -> None:
    fleet = bench(**{**TRAINING, "step_s": 0.05})
    told = iter(["", "Ray drains node abc"])
    fleet.worker(notice=Notice(), drained=lambda: next(told, "")).run()
    assert RunState.DONE not in fleet.states().values()
    assert any("preempted, not counted" in text for text in texts(fleet, "warning"))
    fleet.worker().run()
    assert digests(fleet) == calm


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no manifest"])
def test_a_damaged_checkpoint_is_put_aside(
    bench: Callable[..., Bench], calm: dict[str, str], tmp_path: Path, damage: str
) -> None:
    params = struck("sigterm")
    assert in_a_process(tmp_path / "run", params).wait(120) == 0
    fleet = bench(**params)
    of_run = [path for path in left_over(fleet) if "F1-plain-s1" in str(path)]
    before, newest = sorted(of_run)
    tensors = newest / "tensors.safetensors"
    if damage == "truncated":
        os.truncate(tensors, tensors.stat().st_size - 3)
    elif damage == "flipped":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(bytes(data))
    else:
        (newest / "manifest.json").unlink()
    fleet.worker().run()
    assert digests(fleet) == calm
    (alarm,) = fleet.reader.events(level="alarm")
    assert alarm.source == "F1-plain-s1"
    assert f"{newest.name} put aside" in alarm.text
    assert ("no manifest.json" if damage == "no manifest" else "does not verify") in alarm.text
    went_on = f"training stage train goes on at step {int(before.name.removeprefix('step_'))}"
    assert went_on in texts(fleet, "info")
    assert len(list((fleet.root / "work" / "F1" / "quarantine").rglob("manifest.json"))) == (
        damage != "no manifest"
    )


def test_a_loss_that_is_not_a_number_fails_its_run_alone(
    bench: Callable[..., Bench], calm: dict[str, str]
) -> None:
    fleet = bench(**struck("nan"))
    fleet.worker().run()
    failed = [row for row in fleet.reader.runs() if row.state is RunState.FAILED]
    assert [row.run for row in failed] == ["F1-plain-s1"]
    assert failed[0].reason == ("nonfinite: train: NonFiniteLossError: The loss of step 25 is nan.")
    assert "fake_training.py" in str(failed[0].traceback) or "training.py" in str(
        failed[0].traceback
    )
    assert digests(fleet) == {run: value for run, value in calm.items() if run != "F1-plain-s1"}
    assert fleet.judge()["verdict"] == "INVALID", "never promotable"


def test_memory_that_runs_out_together_is_enough_one_by_one(
    bench: Callable[..., Bench], calm: dict[str, str]
) -> None:
    """300 MiB a run under a limit of 600: three runs do not fit, one does."""
    fleet = bench(**struck("memory", mib_a_run=300))
    fleet.worker().run()
    assert set(fleet.states().values()) == {RunState.DONE}
    assert digests(fleet) == calm, "a smaller pack changes no result"
    (warning,) = (text for text in texts(fleet, "warning") if "run by run" in text)
    assert "MemoryError" in warning
    assert "address space limited" not in warning, "the limit was lifted again"
    assert "resident" in warning


@pytest.mark.parametrize(("kind", "name"), [("memory", "MemoryError"), ("gpu_memory", "OutOfMem")])
def test_memory_that_is_never_enough_is_named(
    bench: Callable[..., Bench], kind: str, name: str
) -> None:
    fleet = bench(**struck(kind, mib_a_run=10**7))
    fleet.worker().run()
    failed = [row for row in fleet.reader.runs() if row.state is RunState.FAILED]
    assert [row.run for row in failed] == ["F1-plain-s1"]
    assert failed[0].reason.startswith("oom: train: ")
    assert name in failed[0].reason
    assert "MiB" in failed[0].reason
    assert "machine has" in failed[0].reason


def test_ray_that_kills_for_memory_is_named_and_tried_once_more(
    bench: Callable[..., Bench], calm: dict[str, str]
) -> None:
    """Ray's own words, as its controller hands them over; killing for memory takes a whole node."""
    from ray.exceptions import OutOfMemoryError

    from fleet.workers.death_notes import note

    fleet = bench(**TRAINING)

    class Client:
        def call(self, method: str, *arguments: Any) -> None:
            getattr(fleet.ledger, method)(*arguments)

    class HealthCheckError(Exception):
        health_check_failure = OutOfMemoryError("Task was killed: node at 0.97 of 15.6 GiB.")

    for again in ("out of memory, once more", "out of memory 2 times"):
        attempt = f"killed-{again}"
        fleet.ledger.begin_attempt(attempt, mission="F1", job="j", rank=0, host="h", pid=1)
        fleet.ledger.record_data("F1", "0" * 64, {}, {})
        lease = fleet.ledger.lease(attempt)
        assert lease is not None
        note(Client(), "j", {0: HealthCheckError("polling failed")})
        assert any(again in text for text in texts(fleet, "warning")), texts(fleet, "warning")
    failed = [row for row in fleet.reader.runs() if row.state is RunState.FAILED]
    assert {row.seed for row in failed} == {0}
    assert failed[0].reason.startswith("oom: killed by Ray for memory: Task was killed: node at")
