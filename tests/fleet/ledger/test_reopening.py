"""What orders do to a ledger: resume, retry, cancel, changed configuration and code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_catalog import document

from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import RunResult, SplitTicket
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.policies import Cause
from fleet.states import RunState
from missions.spec import parse_spec


@pytest.fixture
def ledger(tmp_path: Path, clock: Any, make_plan: Callable[..., Any]) -> Iterator[Ledger]:
    writer = Ledger(tmp_path / "ledger.sqlite", max_tries=2, clock=clock)
    writer.record_plan(make_plan("F1", "F2"), {"command": "test"})
    for mission in ("F1", "F2"):
        writer.record_data(mission, mission[-1] * 64, {}, {})
    yield writer
    writer.close()


@pytest.fixture
def reader(ledger: Ledger, tmp_path: Path) -> Iterator[LedgerReader]:
    with LedgerReader(tmp_path / "ledger.sqlite") as view:
        yield view


def begin(ledger: Ledger, attempt: str, mission: str = "F1") -> None:
    ledger.begin_attempt(attempt, mission=mission, job=attempt, rank=0, host="h", pid=1)


def take(ledger: Ledger, attempt: str = "a1", mission: str = "F1") -> Any:
    """A pack in training."""
    begin(ledger, attempt, mission)
    lease = ledger.lease(attempt)
    assert lease is not None
    ledger.start_pack(attempt, lease.pack)
    return lease


def finish(ledger: Ledger, run: str, attempt: str = "a1", arm_hash: str | None = None) -> None:
    mission, arm, _ = run.split("-")
    spec = parse_spec(document(mission), "fake")
    ledger.open_test(
        SplitTicket(
            ticket=f"{run}/{attempt}",
            run=run,
            arm_hash=arm_hash or spec.arm_digest(arm),
            attempt=attempt,
            host="h",
            pid=1,
        )
    )
    ledger.finish_run(
        attempt,
        RunResult(
            run=run,
            scores_parquet=run.encode(),
            scores_digest=run,
            scores_rows=1,
            artifact="/x",
            cost_json="{}",
            figures_json="{}",
        ),
    )


def states(reader: LedgerReader, mission: str = "F1") -> dict[str, RunState]:
    return {row.run: row.state for row in reader.runs(mission)}


def test_a_driver_that_was_killed(ledger: Ledger, reader: LedgerReader) -> None:
    """Half a pack done, a second one in training: finished runs stay, tries are not charged."""
    take(ledger)
    finish(ledger, "F1-treated-s0")
    take(ledger, "a2")
    assert ledger.reopen("session-2") == 17
    assert states(reader)["F1-treated-s0"] is RunState.DONE
    assert set(states(reader).values()) == {RunState.DONE, RunState.PLANNED}
    assert {pack.tries for pack in reader.packs("F1")} == {0}
    assert reader.seen() == {}
    lease = take(ledger, "a3")
    assert lease.pack == "F1-s0"
    assert lease.missing == ("F1-plain-s0", "F1-extra-s0")
    assert lease.tries == 1
    assert [d.kind for d in reader.decisions()][-1] == "resume"


def test_a_stop_is_undone_by_a_resume(ledger: Ledger, reader: LedgerReader) -> None:
    lease = take(ledger)
    ledger.request_stop("F1", "stopped by SIGTERM")
    ledger.end_attempt("a1", Cause.STOPPED, "")
    ledger.cancel(["F1"], "stopped by SIGTERM")
    ledger.set_phase("F1", "cancelled")
    ledger.set_meta("wall_s", 12.0)
    assert set(states(reader).values()) == {RunState.CANCELLED}
    ledger.reopen("session-2")
    assert set(states(reader).values()) == {RunState.PLANNED}
    assert "wall_s" not in reader.meta()
    mission = reader.missions()[0]
    assert (mission.phase, mission.ended_at) == ("waiting", None)
    begin(ledger, "a2")
    assert not ledger.heartbeat("a2"), "the stop is over"
    assert ledger.lease("a2").pack == lease.pack  # type: ignore[union-attr]


def test_an_early_end_and_a_cancellation_outlive_a_resume(
    ledger: Ledger, reader: LedgerReader
) -> None:
    ledger.decide("early_stop", {"mission": "F1", "kind": "futility", "seeds": [0], "planned": 3})
    ledger.request_stop("F1", "futile")
    ledger.cancel(["F1"], "futile")
    assert ledger.cancel_order("F2", "extra", "cancelled by the user") == 3
    ledger.reopen("session-2")
    assert set(states(reader).values()) == {RunState.CANCELLED}
    assert [r for r, s in states(reader, "F2").items() if s is RunState.CANCELLED] == [
        "F2-extra-s0",
        "F2-extra-s1",
        "F2-extra-s2",
    ]
    assert reader.orders().cancelled("F2", "extra")
    assert reader.orders().closed("F1")


def test_a_cancelled_arm_leaves_its_packs(ledger: Ledger, reader: LedgerReader) -> None:
    take(ledger, "a1", "F2")
    assert ledger.cancel_order("F2", "extra", "cancelled by the user") == 3
    finish(ledger, "F2-extra-s0")
    assert states(reader, "F2")["F2-extra-s0"] is RunState.CANCELLED
    assert reader.results("F2") == [], "what comes too late is not kept"
    ledger.fail_run("a1", "F2-extra-s0", cause=Cause.ERROR, reason="late", traceback="")
    for arm in ("treated", "plain"):
        finish(ledger, f"F2-{arm}-s0")
    ledger.end_pack("a1", "F2-s0")
    lease = ledger.lease("a1")
    assert lease is not None
    assert [arm for _, arm in lease.runs] == ["treated", "plain"]


def test_a_cancelled_mission_and_its_return(ledger: Ledger, reader: LedgerReader) -> None:
    take(ledger)
    assert ledger.cancel_order("F1", None, "cancelled by the user") == 9
    assert ledger.heartbeat("a1"), "its workers are told to leave"
    ledger.end_attempt("a1", Cause.STOPPED, "")
    assert set(states(reader, "F2").values()) == {RunState.PLANNED}
    ledger.retry(list(states(reader)), ["F1"])
    ledger.reopen("session-2")
    assert set(states(reader).values()) == {RunState.PLANNED}
    assert not reader.orders().closed("F1")
    assert take(ledger, "a2").pack == "F1-s0"


def test_retry_gives_a_full_budget(ledger: Ledger, reader: LedgerReader) -> None:
    for attempt in ("a1", "a2"):
        take(ledger, attempt)
        ledger.end_job(attempt, "killed")
    failed = [run for run, state in states(reader).items() if state is RunState.FAILED]
    assert len(failed) == 3
    ledger.retry(failed, [])
    assert set(states(reader).values()) == {RunState.PLANNED}
    row = reader.runs("F1")[0]
    assert (row.traceback, row.reason) == (None, "to be tried again")
    assert take(ledger, "a3").tries == 1
    assert reader.latest("retry") == {"runs": failed, "uncancelled": []}


def test_other_code_keeps_results_and_gives_new_keys(ledger: Ledger, reader: LedgerReader) -> None:
    before = {row.run: row.key for row in reader.runs("F1")}
    take(ledger)
    finish(ledger, "F1-treated-s0")
    ledger.change_code("code", "other")
    ledger.reopen("session-2")
    ledger.record_data("F1", "1" * 64, {}, {})
    after = {row.run: row.key for row in reader.runs("F1")}
    assert after["F1-treated-s0"] == before["F1-treated-s0"]
    assert not set(after.values()) & (set(before.values()) - {before["F1-treated-s0"]})
    take(ledger, "a2")
    finish(ledger, "F1-plain-s0", "a2")
    assert reader.code_versions() == {"F1-treated-s0": "code", "F1-plain-s0": "other"}
    changed = next(d.body for d in reader.decisions() if d.kind == "change")
    assert (changed["what"], changed["before"], changed["after"]) == ("code", "code", "other")
    assert reader.meta()["code_changed"] is True


def test_another_specification_is_frozen_again(ledger: Ledger, reader: LedgerReader) -> None:
    spec = parse_spec({**document("F1"), "params": {"effect": 0.5}, "seeds": [0, 1, 2, 3]}, "fake")
    plan = plan_campaign([spec], run_id="r", profile="laptop", code_version="code")
    take(ledger)
    ledger.change_mission(
        plan.work("F1"),
        ["params.effect: 0.2 -> 0.5"],
        chosen=None,
        data_differ=True,
        code="code",
    )
    ledger.reopen("session-2")
    ledger.record_plan(plan, {})
    row = reader.missions()[0]
    assert (row.spec_hash, row.data_digest) == (spec.digest(), None)
    assert len(reader.runs("F1")) == 12
    links = [link for link in reader.decisions() if link.kind in ("freeze", "change")]
    assert [link.kind for link in links] == ["freeze", "freeze", "change", "freeze"]
    assert links[2].body["before"] == links[0].body["spec_hash"]
    assert links[2].body["after"] == links[3].body["spec_hash"] == spec.digest()
    ledger.record_data("F1", "9" * 64, {}, {})
    take(ledger, "a2")
    finish(ledger, "F1-treated-s0", "a2", arm_hash=spec.arm_digest("treated"))
    assert states(reader)["F1-treated-s0"] is RunState.DONE


def test_drivers_are_listed(ledger: Ledger, reader: LedgerReader, clock: Any) -> None:
    def start(session: str) -> None:
        ledger.begin_session(
            session, pid=1, process_started=1.0, host="h", command="c", code="code"
        )

    start("one")
    start("one")
    clock.now += 10
    ledger.see_session("one")
    clock.now += 5
    start("two")
    ledger.end_session("two", "stopped by SIGTERM")
    ledger.end_session("two", "StorageError: later")
    first, second = reader.sessions()
    assert (first.session, first.seen_at - first.started_at, first.how) == ("one", 10.0, None)
    assert (second.how, second.ended_at) == ("stopped by SIGTERM", clock.now)
