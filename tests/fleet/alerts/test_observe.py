"""What the rules look at, read from a real ledger."""

from __future__ import annotations

import itertools
from pathlib import Path

from fake_catalog import fake_spec

from fleet.alerts import RULES, AlertConfig, look_once, observe
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Point
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.policies import Cause

NOW = 50_000.0


def _ledger(folder: Path) -> Ledger:
    ledger = Ledger(folder / "ledger.sqlite", clock=lambda: NOW)
    plan = plan_campaign([fake_spec("F1")], run_id="r", profile="laptop", code_version="c")
    ledger.begin_session("s", pid=1, process_started=1.0, host="h", command="launch", code="c")
    ledger.record_plan(plan, {})
    return ledger


def test_a_mission_that_comes_up_is_not_silent_since_1970(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.set_phase("F1", "starting")
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        seen = observe(reader, alive=True, now=NOW + 30)
        assert seen.missions[0].moved_at == NOW
        assert not [f for rule in RULES for f in rule.find(seen, AlertConfig())]
        # One that waits for its slot has a limit of its own.
        late = observe(reader, alive=True, now=NOW + 700)
    assert not [f for rule in RULES for f in rule.find(late, AlertConfig())]
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: NOW)
    ledger.set_phase("F1", "running")
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        late = observe(reader, alive=True, now=NOW + 700)
    assert [rule.id for rule in RULES if list(rule.find(late, AlertConfig()))] == ["NoProgress"]


def test_failures_preemptions_signals_and_alarms(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.record_data("F1", "d", {}, {})
    ledger.begin_attempt("a1", mission="F1", job="j", rank=0, host="h", pid=1)
    first = ledger.lease("a1")
    assert first is not None
    ledger.start_pack("a1", first.pack)
    ledger.end_attempt("a1", Cause.PREEMPTED, "the node goes away")
    ledger.begin_attempt("a2", mission="F1", job="j", rank=0, host="h", pid=2)
    again = ledger.lease("a2")
    assert again is not None
    assert again.pack == first.pack
    ledger.start_pack("a2", again.pack)
    run = again.missing[0]
    ledger.log_points(
        [
            Point(run=run, step=1, name="loss", value=9.0),
            Point(run=run, step=2, name="signal/violation", value=0.3),
            Point(run=run, step=1, name="signal/violation", value=0.1),
        ]
    )
    ledger.fail_run("a2", run, cause=Cause.NONFINITE, reason="train: NaN", traceback="t")
    ledger.end_attempt("a2", Cause.WORKER_DIED, "signal 9")
    ledger.event("alarm", run, "checkpoint 3 was set aside")
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        seen = observe(reader, alive=False, now=NOW + 1)
        firing = {alert.rule for alert in look_once(reader, AlertConfig(), alive=False)}
    (mission,) = seen.missions
    assert mission.preemptions == len(first.missing)
    assert mission.deaths == 1
    assert [(f.run, f.cause) for f in seen.failed] == [(run, "nonfinite")]
    (signal,) = seen.signals
    assert signal.points == ((1, 0.1), (2, 0.3))
    assert {"DriverGone", "NonFinite", "ViolationSpike", "WorkerDied", "Alarm"} <= firing


def test_a_death_that_ends_a_group_is_one(tmp_path: Path) -> None:
    """Whoever shares its runs ends with it, and nobody else died."""
    times = itertools.count(NOW)
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: float(next(times)))
    plan = plan_campaign([fake_spec("F1")], run_id="r", profile="laptop", code_version="c")
    ledger.record_plan(plan, {})
    for life in range(2):
        for rank in range(3):
            name = f"{life}.{rank}"
            ledger.begin_attempt(name, mission="F1", job="j", rank=rank, host="h", pid=1 + rank)
        ledger.end_job("j", "signal 9", (Cause.WORKER_DIED, Cause.OOM)[life])
    ledger.begin_attempt("other", mission="F1", job="k", rank=0, host="h", pid=9)
    ledger.end_attempt("other", Cause.WORKER_DIED, "signal 9")
    # One rank hangs; the others are ended with the group, a little later.
    for rank in range(3):
        ledger.begin_attempt(f"2.{rank}", mission="F1", job="l", rank=rank, host="h", pid=1 + rank)
    for _ in range(10):
        for rank in (1, 2):
            ledger.heartbeat(f"2.{rank}")
    assert [lost.attempt for lost in ledger.sweep_leases(stale_after_s=8)] == ["2.0"]
    ledger.end_job("l", "the group is gone")
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        assert reader.deaths() == {"F1": 4}


def test_a_mission_that_waited_for_its_slot_after_its_sweep_is_not_behind(tmp_path: Path) -> None:
    """On a laptop D searches first and then waits for the workers of the missions before it."""
    ledger = _ledger(tmp_path)
    ledger.set_phase("F1", "sweeping")
    ledger.close()
    late = NOW + 10 * AlertConfig().no_progress_s
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: late)
    ledger.begin_attempt("a1", mission="F1", job="j", rank=0, host="h", pid=1)
    ledger.set_phase("F1", "preparing")
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        seen = observe(reader, alive=True, now=late + 5)
    assert (seen.missions[0].phase, seen.missions[0].moved_at) == ("preparing", late)
    assert not [rule.id for rule in RULES if list(rule.find(seen, AlertConfig()))]


def test_a_cancelled_mission_does_not_silence_a_dead_driver(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.set_phase("F1", "cancelled")
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        assert [alert.rule for alert in look_once(reader, AlertConfig(), alive=False)] == [
            "DriverGone"
        ]
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: NOW)
    ledger.end_session("s", "stopped by SIGTERM")
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        assert look_once(reader, AlertConfig(), alive=False) == ()
