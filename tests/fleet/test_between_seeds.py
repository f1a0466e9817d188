"""INTERIM views and early ends without Ray: the decisions, the actor's figures, what is shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_catalog import document

from fleet.judging.interim_table import interim_table
from fleet.judging.stats_actor import StatsService
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.monitor.snapshot import take
from fleet.monitor.table import plain_line
from fleet.plan import plan_campaign
from fleet.policies import Cause, Standing, complete_seeds, early_end, next_view
from fleet.states import RunState
from fleet.workers.job import WorkerJob
from fleet.workers.worker import Worker
from missions.spec import MissionSpec, parse_spec

SEEDS = (0, 1, 2, 3)


def standing(complete: int, looked: int, **changes: Any) -> Standing:
    fields = {"planned": 5, "has_rules": False, **changes}
    return Standing(complete=complete, looked=looked, **fields)


def test_only_the_first_planned_seeds_count() -> None:
    assert complete_seeds((7, 3, 5), {}) == 3
    assert complete_seeds((7, 3, 5), {3: 2}) == 1
    assert complete_seeds((7, 3, 5), {7: 1}) == 0
    assert complete_seeds((7, 3, 5), {7: 0, 5: 1}) == 2


def test_views_are_asked_for_as_seeds_come_in() -> None:
    assert next_view(standing(0, 0)) is None
    assert next_view(standing(1, 0)) == 1
    assert next_view(standing(1, 1)) is None
    assert next_view(standing(3, 1)) == 3
    # Rules of the mission file see every number of seeds in turn.
    assert next_view(standing(3, 1, has_rules=True)) == 2
    assert next_view(standing(5, 3, has_rules=True)) == 4
    # At the planned number the verdict is due, and after an end nothing.
    assert next_view(standing(5, 4, has_rules=True)) is None
    assert next_view(standing(3, 1, has_rules=True, ended=True)) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"rule_says_stop": False}, False),
        ({"done": 5}, False),
        ({"withheld": True}, False),
        ({"failed": 1}, False),
    ],
)
def test_when_a_mission_ends_early(changes: dict[str, Any], expected: bool) -> None:
    facts = {"rule_says_stop": True, "done": 3, "planned": 5, "withheld": False, "failed": 0}
    facts |= changes
    assert early_end(facts.pop("rule_says_stop"), **facts) is expected


@dataclass
class Bench:
    root: Path
    spec: MissionSpec
    ledger: Ledger

    def worker(self) -> Worker:
        job = WorkerJob(
            mission="F1",
            job="j",
            root=str(self.root),
            spec_json=self.spec.model_dump_json(),
            catalog="fake_catalog",
            submitted_at=time.time(),
        )
        return Worker(job, self.ledger, rank=0, device=torch.device("cpu"))


class StopsAfter:
    """A ledger that is asked to stop the mission once some packs have been handed out."""

    def __init__(self, ledger: Ledger, packs: int, reason: str) -> None:
        self._ledger, self._left, self._reason = ledger, packs, reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def lease(self, attempt: str) -> Any:
        if self._left == 0:
            self._ledger.request_stop("F1", self._reason)
        self._left -= 1
        return self._ledger.lease(attempt)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    spec = parse_spec(
        {
            **document("F1", effect=-0.3),
            "seeds": list(SEEDS),
            "futility": {"conditional_power_min": 0.1, "from_seeds": 2},
        },
        "test",
    )
    ledger = Ledger(tmp_path / "ledger.sqlite")
    plan = plan_campaign([spec], run_id="r", profile="laptop", code_version="c")
    ledger.record_plan(plan, {})
    yield Bench(root=tmp_path, spec=spec, ledger=ledger)
    ledger.close()


def test_a_stopped_mission_from_view_to_report(bench: Bench) -> None:
    stats = StatsService(str(bench.root))
    worker = bench.worker()
    worker._ledger = StopsAfter(bench.ledger, 2, "stopped for futility after 2 of 4 seeds")
    worker.run()
    view = stats.interim("F1", 2)["view"]
    assert view["label"] == "INTERIM"
    assert view["stop"]["kind"] == "futility"
    assert view["seeds"] == [0, 1]
    first = stats.interim("F1", 1)["view"]
    assert (first["stop"], first["gates"][0]["low"]) == (None, None)
    bench.ledger.set_meta("interim/F1", [first, view])
    with LedgerReader(bench.root / "ledger.sqlite") as reader:
        running = take(reader, now=time.time())
        assert running.missions[0].interim == view
        line = "".join(plain_line(None, running))
        assert "INTERIM 2 of 4 seeds: -" in line
        bench.ledger.decide("early_stop", {"mission": "F1", **view["stop"]})
        bench.ledger.cancel(["F1"], "stopped for futility after 2 of 4 seeds")
        verdict = stats.judge("F1", 200, stopped=view["stop"])
        bench.ledger.decide("verdict", verdict)
        states = {row.seed: (row.state, row.reason) for row in reader.runs()}
        ended = take(reader, now=time.time())
    assert states[1][0] is RunState.DONE
    assert states[3] == (RunState.CANCELLED, "stopped for futility after 2 of 4 seeds")
    assert (verdict["verdict"], verdict["seeds"]) == ("INCONCLUSIVE", [0, 1])
    assert not any("CANCELLED" in reason for reason in verdict["reasons"])
    assert ended.missions[0].interim is None
    assert "stopped for futility after 2 of 4 seeds" in str(ended.missions[0].stopped)
    assert any("stopped for futility" in line for line in plain_line(running, ended))
    table = interim_table([first, view])
    assert table is not None
    assert [row[0] for row in table.rows] == ["2 of 4"]
    assert json.dumps(ended.to_dict())


def test_without_the_stop_the_missing_seeds_are_invalid(bench: Bench) -> None:
    worker = bench.worker()
    worker._ledger = StopsAfter(bench.ledger, 2, "told to")
    worker.run()
    bench.ledger.cancel(["F1"], "told to")
    verdict = StatsService(str(bench.root)).judge("F1", 200)
    assert verdict["verdict"] == "INVALID"
    assert any("CANCELLED" in reason for reason in verdict["reasons"])


def test_a_worker_that_is_stopped_leaves_the_reason_of_the_stop(bench: Bench) -> None:
    bench.ledger.begin_attempt("a", mission="F1", job="j", rank=0, host="h", pid=1)
    assert bench.ledger.lease("a") is not None
    bench.ledger.request_stop("F1", "stopped for futility")
    assert bench.ledger.heartbeat("a")
    bench.ledger.end_attempt("a", Cause.STOPPED, "stopped by the user")
    with LedgerReader(bench.root / "ledger.sqlite") as reader:
        first = [row for row in reader.runs() if row.seed == 0]
        assert {(row.state, row.reason) for row in first} == {
            (RunState.CANCELLED, "stopped for futility")
        }
