"""Resume, retry, cancel and stop from the command line; Ray is replaced, the ledger is real."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_catalog
import pytest
import torch

import fleet.driver.resume
from fleet import cli, provenance
from fleet.driver.driver_lock import driver_of
from fleet.driver.leftovers import SESSION_VARIABLE
from fleet.driver.order_file import OrderFile, plain_specs, read_order, write_order
from fleet.errors import StorageError
from fleet.judging.stats_actor import StatsService
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.policies import Cause
from fleet.registry import promotion
from fleet.settings import RunPaths
from fleet.states import RunState
from fleet.workers.job import WorkerJob
from fleet.workers.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run of F1 and F2 that was launched and planned."""
    found = RunPaths(root=tmp_path / "one")
    found.root.mkdir()
    specs = [fake_catalog.resolve(name) for name in ("F1", "F2")]
    code = provenance.code_version()
    write_order(
        found,
        OrderFile(
            missions=("F1", "F2"),
            arms=(),
            profile="laptop",
            overrides=(),
            cpus=1,
            address=None,
            catalog="fake_catalog",
            command="python fleet.py launch --missions F1,F2",
            code_version=code,
            registry=None,
            specs=plain_specs(specs),
        ),
    )
    ledger = Ledger(found.ledger)
    plan = plan_campaign(specs, run_id="one", profile="laptop", code_version=code)
    ledger.record_plan(plan, {})
    for spec in specs:
        ledger.record_data(spec.id, "d" * 64, {}, {})
    ledger.close()
    return found


@pytest.fixture
def command(paths: RunPaths) -> Callable[..., int]:
    def run(*words: str) -> int:
        return cli.run([*words, "--runs-dir", str(paths.root.parent)])

    return run


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch, paths: RunPaths) -> list[Any]:
    """What the driver would have been given; what it prepares is carried out."""
    calls: list[Any] = []

    class Client:
        def __init__(self, ledger: Ledger) -> None:
            self._ledger = ledger

        def call(self, method: str, *arguments: Any, **named: Any) -> Any:
            return getattr(self._ledger, method)(*arguments, **named)

    def work(plan: Any, settings: Any, wishes: Any, *, prepare: Any, **named: Any) -> int:
        calls.append((plan, settings))
        ledger = Ledger(paths.ledger)
        prepare(Client(ledger))
        ledger.record_plan(plan, named["meta"])
        ledger.close()
        return 0

    monkeypatch.setattr(fleet.driver.resume, "work", work)
    return calls


def fail_a_pack(paths: RunPaths) -> None:
    ledger = Ledger(paths.ledger)
    ledger.begin_attempt("a", mission="F1", job="j", rank=0, host="h", pid=1)
    lease = ledger.lease("a")
    assert lease is not None
    ledger.start_pack("a", lease.pack)
    for run in lease.missing:
        ledger.fail_run("a", run, cause=Cause.ERROR, reason="boom", traceback="")
    ledger.end_pack("a", lease.pack)
    ledger.end_attempt("a")
    ledger.set_meta("wall_s", 5.0)
    ledger.set_meta("finished", 5.0)
    ledger.close()


def states(paths: RunPaths, mission: str = "F1") -> set[RunState]:
    with LedgerReader(paths.ledger) as reader:
        return {row.state for row in reader.runs(mission)}


def test_resume_goes_on_with_what_was_frozen(
    command: Callable[..., int], worked: list[Any], paths: RunPaths
) -> None:
    assert command("resume", "one") == 0
    plan, settings = worked[0]
    assert {work.mission for work in plan.works} == {"F1", "F2"}
    assert (settings.cpus, settings.catalog) == (1, "fake_catalog")
    assert settings.session
    with LedgerReader(paths.ledger) as reader:
        assert [d.kind for d in reader.decisions()] == ["freeze", "freeze", "resume"]


@pytest.mark.parametrize("half", [False, True])
def test_a_launch_that_never_recorded_its_plan_begins_now(
    command: Callable[..., int], worked: list[Any], paths: RunPaths, half: bool
) -> None:
    paths.ledger.unlink()
    if half:  # killed between the first page and the tables
        cx = sqlite3.connect(paths.ledger, isolation_level=None)
        cx.execute("PRAGMA journal_mode=WAL")
        cx.close()
        assert paths.ledger.stat().st_size
    assert command("resume") == 0
    with LedgerReader(paths.ledger) as reader:
        assert len(reader.runs()) == 18


def test_a_complete_run_has_nothing_to_resume_but_may_have_runs_to_retry(
    command: Callable[..., int],
    worked: list[Any],
    paths: RunPaths,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_a_pack(paths)
    assert command("resume", "one") == 0
    assert worked == []
    told = capsys.readouterr().err
    assert "run one is complete" in told
    assert "3 runs failed: python fleet.py retry --failed one" in told
    assert command("retry", "--failed", "one", "-m", "F2") == 6
    assert command("retry", "--failed", "one", "-m", "F9") == 6
    assert "no mission 'F9'" in capsys.readouterr().err
    assert command("retry", "--failed", "one") == 0
    assert states(paths) == {RunState.PLANNED}


def test_a_changed_mission_file_is_refused_with_its_diff(
    command: Callable[..., int],
    worked: list[Any],
    paths: RunPaths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = fake_catalog.document

    def changed(mission_id: str, **params: Any) -> dict[str, Any]:
        return {**before(mission_id, **params), "estimand": "something else"}

    monkeypatch.setattr(fake_catalog, "document", changed)
    assert command("resume", "one") == 3
    told = capsys.readouterr().err
    assert "estimand: difference in accuracy -> something else" in told
    assert "next: python fleet.py resume one --allow-changes" in told
    assert worked == []
    assert command("resume", "one", "--allow-changes") == 0
    with LedgerReader(paths.ledger) as reader:
        links = [d for d in reader.decisions() if d.kind == "change"]
    assert [link.body["mission"] for link in links] == ["F1", "F2"]
    assert links[0].body["before"] != links[0].body["after"]
    assert read_order(paths).specs["F1"]["estimand"] == "something else"
    assert command("resume", "one") == 0, "what was allowed is the run's configuration now"


def test_a_changed_code_version_is_refused_likewise(
    command: Callable[..., int],
    worked: list[Any],
    paths: RunPaths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = provenance.code_version()
    monkeypatch.setattr(provenance, "code_version", lambda: "0" * 64)
    assert command("resume", "one") == 3
    assert f"({old[:12]} then, 000000000000 now)" in capsys.readouterr().err
    assert command("resume", "one", "--allow-changes") == 0
    with LedgerReader(paths.ledger) as reader:
        change = next(d.body for d in reader.decisions() if d.kind == "change")
    assert (change["what"], change["before"], change["after"]) == ("code", old, "0" * 64)


def test_cancel_without_a_driver(
    command: Callable[..., int],
    worked: list[Any],
    paths: RunPaths,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("cancel", "F1:extra", "F2", "--run-id", "one") == 0
    out = capsys.readouterr().out
    assert "F1:extra cancelled, 3 open runs" in out
    assert "withheld" not in out
    assert states(paths, "F2") == {RunState.CANCELLED}
    assert command("cancel", "F1:plain", "--run-id", "one") == 2
    assert "primary gate" in capsys.readouterr().err
    assert command("cancel", "F7", "--run-id", "one") == 6
    assert command("cancel", "F1:treatd", "--run-id", "one") == 6
    assert "treated" in capsys.readouterr().err, "the nearest name is suggested"
    assert command("retry", "--cancelled", "one") == 0
    assert states(paths, "F2") == states(paths) == {RunState.PLANNED}


HOLD = """
import os, signal, subprocess, sys, time
from pathlib import Path
from fleet.driver.driver_lock import drive
from fleet.settings import RunPaths
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with drive(RunPaths(root=Path(sys.argv[1])), command="launch") as lock:
    os.environ["BEM_FLEET_SESSION"] = lock.session
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    print(child.pid, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize(("kind", "words"), [("polite", []), ("deaf", []), ("deaf", ["--hard"])])
def test_stop_gets_harder_until_the_driver_is_gone(
    command: Callable[..., int],
    paths: RunPaths,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    words: list[str],
) -> None:
    import psutil

    monkeypatch.setattr("fleet.driver.stopping.ANSWER_S", 0.5)
    environment = {k: v for k, v in os.environ.items() if k != SESSION_VARIABLE}
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(paths.root), kind],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert driver.stdout is not None
    worker = psutil.Process(int(driver.stdout.readline()))
    while worker.environ().get(SESSION_VARIABLE) is None:
        time.sleep(0.01)
    assert command("stop", "one", "--timeout", "1", *words) == 0
    told = capsys.readouterr().err
    assert driver.wait(10) == (-15 if kind == "polite" else -9)
    driver.stdout.close()
    assert not driver_of(paths).alive  # type: ignore[union-attr]
    if kind == "deaf":
        assert "SIGKILL" in told
        assert ("SIGTERM" in told) is not bool(words)
        psutil.wait_procs([worker], timeout=5)
        assert not worker.is_running()
    assert command("stop", "one") == 0
    assert "has no driver since" in capsys.readouterr().err
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_logs_show_the_end_in_words(
    command: Callable[..., int], paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.logs.mkdir()
    lines = [f'{{"at": "t{n}", "level": "INFO", "source": "s", "text": "x{n}"}}' for n in range(9)]
    (paths.logs / "F1.jsonl").write_text("\n".join(lines) + "\n")
    (paths.logs / "driver.log").write_text("plain\n")
    assert command("logs", "one", "-m", "F1", "-n", "2") == 0
    assert capsys.readouterr().out == "t7 INFO s x7\nt8 INFO s x8\n"
    assert command("logs", "one", "--follow") == 0, "nobody drives it: nothing more will come"
    assert "driver: plain" in capsys.readouterr().out
    assert command("logs", "one", "-m", "F9") == 6
    assert "Logs: F1, driver." in capsys.readouterr().err


@pytest.fixture
def judged(paths: RunPaths) -> RunPaths:
    """The run as `close` leaves it: every verdict in the ledger, and nothing after that."""
    ledger = Ledger(paths.ledger)
    with LedgerReader(paths.ledger) as reader:
        specs = {name: reader.spec_json(name) for name in ("F1", "F2")}
    with sqlite3.connect(paths.ledger) as cx:  # the workers' data have another digest
        cx.execute("UPDATE missions SET data_digest = NULL")
        cx.execute("UPDATE runs SET key = NULL")
    cx.close()
    for name, spec_json in specs.items():
        job = WorkerJob(
            mission=name,
            job=f"{name}-1",
            root=str(paths.root),
            spec_json=spec_json,
            catalog="fake_catalog",
            submitted_at=time.time(),
        )
        Worker(job, ledger, rank=0, device=torch.device("cpu")).run()
    stats = StatsService(str(paths.root))
    for verdict in stats.judge_family([stats.judge(name, 500) for name in specs]):
        ledger.decide("verdict", verdict)
    for key, value in {**FACTS, "wall_s": 5.0}.items():
        ledger.set_meta(key, value)
    ledger.close()
    return paths


FACTS = {
    "created": "2026-01-01T00:00:00+00:00",
    "command": "python fleet.py launch",
    "commit": "0" * 40,
    "dirty": False,
    "versions": {},
    "hardware": {},
    "slots": 1,
}


def test_a_driver_killed_after_the_verdicts_leaves_the_rest_to_a_resume(
    command: Callable[..., int],
    worked: list[Any],
    judged: RunPaths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    copies, registry = tmp_path / "copies", tmp_path / "registry"
    order = read_order(judged)
    write_order(
        judged,
        order.model_copy(update={"registry": str(registry), "storage": f"file://{copies}"}),
    )
    asked: list[str] = []

    def promote(paths: RunPaths, folder: Path, wish: promotion.Wish) -> list[promotion.Outcome]:
        assert folder == registry
        asked.extend(wish.missions)
        if wish.missions == ("F2",):
            return [promotion.Outcome(mission="F2", model=None, alias=None, text="not promoted")]
        if len(asked) == 1:
            raise StorageError("the registry's disk is full")
        return [promotion.Outcome(mission="F1", model="m-1", alias="champion", text="promoted")]

    monkeypatch.setattr(promotion, "promote_run", promote)
    assert command("resume", "one") == 5, "a promotion that failed is not done"
    told = capsys.readouterr().err
    assert "report, promotion and copy are made now" in told
    assert "next: python fleet.py promote one" in told
    assert command("resume", "one") == 0
    assert "F1: m-1 promoted" in capsys.readouterr().err
    assert worked == [], "no run is worked on"
    assert judged.report.is_file()
    assert judged.result.is_file()
    assert (copies / "one" / "latest.json").is_file()
    assert command("resume", "one") == 0
    assert "nothing is left to do" in capsys.readouterr().err
    assert asked == ["F1", "F2", "F1", "F2"]
