"""The writer and the reader on a real file: leases, moves, keys, the chain."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from worker_calls import begin, finish, result, states, ticket

import fleet.ledger.sweeps
import fleet.ledger.transitions
import fleet.ledger.writer
from fleet.errors import IllegalMoveError, KeyConflictError, LedgerError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Point
from fleet.ledger.writer import Ledger
from fleet.policies import Cause
from fleet.redaction import Redactor
from fleet.states import RunState
from fleet.sweep.records import TrialRow
from missions.errors import LockedSplitError


def test_the_plan_is_frozen_before_any_data(reader: LedgerReader) -> None:
    frozen = reader.decisions()
    assert [d.kind for d in frozen] == ["freeze", "freeze"]
    assert frozen[0].body["spec_hash"] == reader.missions()[0].spec_hash
    assert all(row.data_digest is None for row in reader.missions())
    assert all(row.key is None and row.state is RunState.PLANNED for row in reader.runs())
    assert len(reader.runs("F1")) == 9


def test_a_pack_goes_through_its_life(ledger: Ledger, reader: LedgerReader, tmp_path: Path) -> None:
    begin(ledger)
    ledger.record_data("F1", "data", {"names": 0}, {"test": 3})
    lease = ledger.lease("a1")
    assert lease is not None
    assert lease.missing == ("F1-treated-s0", "F1-plain-s0", "F1-extra-s0")
    assert states(reader, lease.pack) == {RunState.LEASED}
    assert ledger.lease("a1") == lease, "a call delivered twice gives the same lease"
    ledger.start_pack("a1", lease.pack)
    for run in lease.missing:
        finish(ledger, result(run))
    ledger.end_pack("a1", lease.pack)
    assert states(reader, lease.pack) == {RunState.DONE}
    assert ledger.lease("a1").pack == "F1-s1"  # type: ignore[union-attr]
    stored = {row.scores_file for row in reader.results("F1")}
    assert len(stored) == 1, "equal bytes are one file"
    assert (tmp_path / "scores" / stored.pop()).read_bytes() == b"scores"


def test_same_key_same_value_once_and_other_value_alarms(
    ledger: Ledger, reader: LedgerReader
) -> None:
    begin(ledger)
    ledger.record_data("F1", "data", {}, {})
    lease = ledger.lease("a1")
    ledger.start_pack("a1", lease.pack)  # type: ignore[union-attr]
    finish(ledger, result("F1-treated-s0"))
    finish(ledger, result("F1-treated-s0"))
    assert len(reader.results()) == 1
    with pytest.raises(KeyConflictError, match="The first is kept"):
        finish(ledger, result("F1-treated-s0", b"other", "e"))
    assert [row.scores_digest for row in reader.results()] == ["d"]


def test_other_data_for_the_same_mission_alarms(ledger: Ledger) -> None:
    ledger.record_data("F1", "data", {}, {})
    ledger.record_data("F1", "data", {}, {})
    with pytest.raises(KeyConflictError, match="data digest"):
        ledger.record_data("F1", "other", {}, {})


def test_illegal_moves_change_nothing(ledger: Ledger, reader: LedgerReader) -> None:
    begin(ledger)
    ledger.record_data("F1", "data", {}, {})
    lease = ledger.lease("a1")
    with pytest.raises(IllegalMoveError, match="LEASED -> DONE"):
        finish(ledger, result("F1-treated-s0"))
    assert reader.results() == []
    assert states(reader, lease.pack) == {RunState.LEASED}  # type: ignore[union-attr]


def test_only_the_holder_writes(ledger: Ledger) -> None:
    begin(ledger, "a1", job="j1")
    begin(ledger, "a2", job="j2")
    ledger.record_data("F1", "data", {}, {})
    first, second = ledger.lease("a1"), ledger.lease("a2")
    assert first is not None
    assert second is not None
    assert first.pack != second.pack
    with pytest.raises(LedgerError, match="does not hold"):
        ledger.start_pack("a2", first.pack)


def test_a_dead_worker_is_replaced_until_the_limit(ledger: Ledger, reader: LedgerReader) -> None:
    for number in (1, 2):
        begin(ledger, f"a{number}")
        lease = ledger.lease(f"a{number}")
        assert lease is not None
        assert (lease.pack, lease.tries) == ("F1-s0", number)
        ledger.start_pack(f"a{number}", lease.pack)
    begin(ledger, "a3")
    failed = [row for row in reader.runs() if row.pack == "F1-s0"]
    assert {row.state for row in failed} == {RunState.FAILED}
    assert "the worker died 2 times" in failed[0].reason
    assert ledger.lease("a3").pack == "F1-s1"  # type: ignore[union-attr]


def test_preemption_leaves_the_budget_alone(ledger: Ledger, reader: LedgerReader) -> None:
    for number in range(5):
        begin(ledger, f"a{number}", job=f"j{number}")
        lease = ledger.lease(f"a{number}")
        assert lease is not None
        assert (lease.pack, lease.tries) == ("F1-s0", 1)
        ledger.end_attempt(f"a{number}", Cause.PREEMPTED, "node reclaimed")
    assert states(reader, "F1-s0") == {RunState.PLANNED}


def test_finished_runs_survive_a_dead_worker(ledger: Ledger, reader: LedgerReader) -> None:
    begin(ledger, "a1")
    ledger.record_data("F1", "data", {}, {})
    lease = ledger.lease("a1")
    ledger.start_pack("a1", lease.pack)  # type: ignore[union-attr]
    finish(ledger, result("F1-treated-s0"))
    begin(ledger, "a2")
    again = ledger.lease("a2")
    assert again is not None
    assert len(again.runs) == 3, "the whole pack trains together"
    assert again.missing == ("F1-plain-s0", "F1-extra-s0")


def test_silence_makes_stale_then_lost_and_slowness_recovers(
    ledger: Ledger, reader: LedgerReader, clock: Any
) -> None:
    begin(ledger)
    lease = ledger.lease("a1")
    ledger.start_pack("a1", lease.pack)  # type: ignore[union-attr]
    clock.now += 31
    ledger.sweep_leases(stale_after_s=30)
    assert states(reader, "F1-s0") == {RunState.STALE}
    ledger.heartbeat("a1")
    assert states(reader, "F1-s0") == {RunState.RUNNING}
    clock.now += 61
    ledger.sweep_leases(stale_after_s=30)
    assert states(reader, "F1-s0") == {RunState.PLANNED}
    assert ledger.heartbeat("a1"), "a worker that was given up is told to leave"
    assert ledger.lease("a1") is None


def test_stop_reaches_the_workers(ledger: Ledger, reader: LedgerReader) -> None:
    begin(ledger)
    ledger.lease("a1")
    assert not ledger.heartbeat("a1")
    ledger.request_stop("F1", "SIGINT")
    assert ledger.heartbeat("a1")
    ledger.end_attempt("a1", Cause.STOPPED, "stopped")
    ledger.cancel(["F1"], "stopped")
    assert {row.state for row in reader.runs("F1")} == {RunState.CANCELLED}
    assert {row.state for row in reader.runs("F2")} == {RunState.PLANNED}


def test_failures_keep_their_traceback(ledger: Ledger, reader: LedgerReader) -> None:
    begin(ledger)
    lease = ledger.lease("a1")
    ledger.start_pack("a1", lease.pack)  # type: ignore[union-attr]
    ledger.fail_run(
        "a1", "F1-plain-s0", cause=Cause.ERROR, reason="train: boom", traceback="Trace\nboom"
    )
    row = next(row for row in reader.runs() if row.run == "F1-plain-s0")
    assert (row.state, row.reason) == (RunState.FAILED, "error: train: boom")
    assert row.traceback == "Trace\nboom"
    assert reader.events(level="error")[0].source == "F1-plain-s0"
    with pytest.raises(LedgerError, match="open runs"):
        ledger.end_pack("a1", lease.pack)  # type: ignore[union-attr]


def test_the_test_split_opens_for_frozen_arms_only_and_every_read_is_a_link(
    ledger: Ledger, reader: LedgerReader
) -> None:
    begin(ledger)
    ledger.record_data("F1", "data", {}, {})
    lease = ledger.lease("a1")
    ledger.start_pack("a1", lease.pack)  # type: ignore[union-attr]
    with pytest.raises(LockedSplitError, match="without a recorded read"):
        ledger.finish_run("a1", result("F1-treated-s0"))
    with pytest.raises(LockedSplitError, match="before any read"):
        ledger.open_test(ticket("F1-treated-s0", arm_hash="0" * 64))
    for _ in range(2):  # delivered twice, read once
        ledger.open_test(ticket("F1-treated-s0"))
    ledger.open_test(ticket("F1-treated-s0", ticket="a second look"))
    with pytest.raises(LockedSplitError, match="after 2 reads of its test scores"):
        ledger.open_test(ticket("F1-treated-s1", arm_hash="0" * 64))
    with pytest.raises(LockedSplitError, match="without a recorded read"):
        ledger.finish_run("a1", result("F1-plain-s0"))
    with pytest.raises(LedgerError, match="no run 'F1-nobody-s0'"):
        ledger.open_test(ticket("F1-treated-s0", run="F1-nobody-s0"))
    ledger.finish_run("a1", result("F1-treated-s0"))
    chain = reader.decisions()
    assert [d.kind for d in chain] == ["freeze", "freeze", "test_read", "test_read"]
    assert {(d.body["arm"], d.body["seed"]) for d in chain[2:]} == {("treated", 0)}
    assert [row.run for row in reader.results()] == ["F1-treated-s0"]


def test_metrics_come_in_batches_and_nan_is_told(ledger: Ledger, reader: LedgerReader) -> None:
    def point(step: int, value: float) -> Point:
        return Point(run="F1-plain-s0", step=step, name="loss", value=value)

    ledger.log_points([*(point(at, 1 / (at + 1)) for at in range(500)), point(500, float("nan"))])
    assert reader.last_points("F1")["F1-plain-s0"][0] == 499
    assert reader.events(level="error")[0].text == "loss is nan at step 500"


def test_the_chain_shows_tampering(ledger: Ledger, tmp_path: Path) -> None:
    ledger.decide("verdict", {"mission": "F1", "verdict": "REJECT"})
    ledger.decide("verdict", {"mission": "F1", "verdict": "REJECT"})
    ledger.decide("campaign", {"digest": "d"})
    ledger.close()
    path = tmp_path / "ledger.sqlite"

    def tamper(sql: str) -> LedgerReader:
        copy = tmp_path / "copy.sqlite"
        copy.write_bytes(path.read_bytes())
        cx = sqlite3.connect(copy)
        cx.execute(sql)
        cx.commit()
        cx.close()
        return LedgerReader(copy)

    with tamper("SELECT 1") as honest:
        assert [d.kind for d in honest.decisions()] == ["freeze", "freeze", "verdict", "campaign"]
    changed = "UPDATE decisions SET body_json = replace(body_json, 'REJECT', 'PROMOTE')"
    with tamper(changed) as forged, pytest.raises(LedgerError, match=r"3 \(verdict\) was changed"):
        forged.decisions()
    with (
        tamper("DELETE FROM decisions WHERE seq = 2") as cut,
        pytest.raises(LedgerError, match="broken"),
    ):
        cut.decisions()
    with (
        tamper("DELETE FROM decisions WHERE seq = 1") as cut,
        pytest.raises(LedgerError, match="broken"),
    ):
        cut.decisions()


def test_extras_are_made_once_and_only_for_a_complete_grid(
    ledger: Ledger, reader: LedgerReader
) -> None:
    begin(ledger, "a1", job="j1")
    begin(ledger, "a2", job="j2")
    ledger.record_data("F1", "data", {}, {})
    while (lease := ledger.lease("a1")) is not None:
        assert not ledger.claim_extras("F1", "a1")
        ledger.start_pack("a1", lease.pack)
        for run in lease.missing:
            finish(ledger, result(run))
        ledger.end_pack("a1", lease.pack)
    assert ledger.claim_extras("F1", "a2")
    assert not ledger.claim_extras("F1", "a1")
    ledger.record_extras("F1", json.dumps([{"is": "table"}]))
    assert reader.extras("F1") == [{"is": "table"}]


def trial_row(error: str = "") -> TrialRow:
    return TrialRow(
        key="k" * 64,
        mission="F1",
        arm="plain",
        number=0,
        rung=0,
        settings={},
        seed_scores={0: 1.0},
        cost={},
        error=error,
        traceback=error,
        cpu_s=1.0,
        wall_s=1.0,
    )


@pytest.mark.parametrize("call", ["record_trial", "find_trial", "settle_sweep", "checkpoint"])
def test_a_worker_and_its_heartbeat_take_turns(ledger: Ledger, call: str) -> None:
    """One connection: a second transaction inside the first one would be refused."""
    row = trial_row()
    arguments: dict[str, tuple[Any, ...]] = {
        "record_trial": (row,),
        "find_trial": (row.key,),
        "settle_sweep": ("F1", "{}", {"mission": "F1"}, {"arm_hashes": {}}),
        "checkpoint": (),
    }
    done: list[Any] = []

    def work() -> None:
        done.append(getattr(ledger, call)(*arguments[call]))

    other = threading.Thread(target=work)
    with ledger._guard:
        other.start()
        other.join(0.2)
        assert other.is_alive()
    other.join(10)
    assert done


def test_no_secret_gets_into_what_was_said(
    ledger: Ledger, reader: LedgerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_not_for_the_ledger"
    found = Redactor({"HF_TOKEN": secret})
    for module in (fleet.ledger.writer, fleet.ledger.transitions, fleet.ledger.sweeps):
        monkeypatch.setattr(module, "redactor", lambda: found)
    ledger.begin_session(
        "s", pid=1, process_started=0.0, host="h", command=f"launch {secret}", code="c"
    )
    ledger.end_session("s", f"ValueError: {secret}")
    begin(ledger)
    assert ledger.lease("a1") is not None
    ledger.end_attempt("a1", Cause.WORKER_DIED, f"died with {secret}")
    ledger.request_stop("F1", f"stopped with {secret}")
    ledger.cancel(["F2"], f"stopped with {secret}")
    ledger.record_trial(trial_row(f"ValueError: {secret}"))
    dump = "\n".join(reader._cx.iterdump())
    assert "died with [redacted HF_TOKEN]" in dump
    assert secret not in dump
