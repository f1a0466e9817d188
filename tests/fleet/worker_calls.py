"""What a worker says to the ledger, in short."""

from __future__ import annotations

from typing import Any

from fake_catalog import fake_spec

from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import RunResult, SplitTicket
from fleet.ledger.writer import Ledger
from fleet.states import RunState


def begin(ledger: Ledger, attempt: str = "a1", *, job: str = "j", mission: str = "F1") -> None:
    ledger.begin_attempt(attempt, mission=mission, job=job, rank=0, host="h", pid=1)


def result(run: str, content: bytes = b"scores", digest: str = "d") -> RunResult:
    return RunResult(
        run=run,
        scores_parquet=content,
        scores_digest=digest,
        scores_rows=3,
        artifact="/x",
        cost_json='{"arm": "treated"}',
        figures_json="{}",
    )


def ticket(name: str, attempt: str = "a1", **changes: Any) -> SplitTicket:
    arm = name.split("-")[1]
    return SplitTicket(
        **{
            "ticket": f"{name}/{attempt}",
            "run": name,
            "arm_hash": fake_spec("F1").arm_digest(arm),
            "attempt": attempt,
            "host": "h",
            "pid": 1,
            **changes,
        }
    )


def finish(ledger: Ledger, handed: RunResult, attempt: str = "a1") -> None:
    ledger.open_test(ticket(handed.run, attempt))
    ledger.finish_run(attempt, handed)


def states(reader: LedgerReader, pack: str) -> set[RunState]:
    return {row.state for row in reader.runs() if row.pack == pack}


def finish_one(ledger: Ledger) -> None:
    """Carries one run to its end."""
    ledger.record_data("F1", "d" * 64, {}, {})
    begin(ledger)
    lease = ledger.lease("a1")
    assert lease is not None
    ledger.start_pack("a1", lease.pack)
    finish(ledger, result("F1-treated-s0"))
