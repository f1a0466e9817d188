"""The ledger as a worker sees it: a port, and the client that reaches the ledger actor.

`fleet.ledger.writer.Ledger` fits the port as well, so a worker's whole loop runs in a test
without Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from fleet.errors import LedgerError, first_line
from fleet.ledger.records import Lease, Point, RunResult, SplitTicket
from fleet.policies import Cause

LEDGER_ACTOR = "fleet-ledger"
STATS_ACTOR = "fleet-stats"


class WorkerLedger(Protocol):
    """What a worker asks of the ledger."""

    def begin_attempt(
        self,
        attempt: str,
        *,
        mission: str,
        job: str,
        rank: int,
        host: str,
        pid: int,
        process_started: float | None = None,
    ) -> None: ...

    def heartbeat(self, attempt: str) -> bool: ...

    def lease(self, attempt: str) -> Lease | None: ...

    def start_pack(self, attempt: str, pack: str) -> None: ...

    def open_test(self, ticket: SplitTicket) -> None: ...

    def finish_run(self, attempt: str, result: RunResult) -> None: ...

    def fail_run(
        self, attempt: str, run: str, *, cause: Cause, reason: str, traceback: str
    ) -> None: ...

    def end_pack(self, attempt: str, pack: str) -> None: ...

    def end_attempt(self, attempt: str, cause: Cause | None = None, reason: str = "") -> None: ...

    def fail_mission(self, mission: str, *, reason: str, traceback: str) -> None: ...

    def record_data(
        self, mission: str, digest: str, leaks: Mapping[str, int], summary: Mapping[str, int]
    ) -> None: ...

    def set_phase(self, mission: str, phase: str) -> None: ...

    def claim_extras(self, mission: str, attempt: str) -> bool: ...

    def record_extras(self, mission: str, extras_json: str) -> None: ...

    def log_points(self, points: Iterable[Point]) -> None: ...

    def event(self, level: str, source: str, text: str) -> None: ...

    def timing(self, mission: str, stage: str, name: str, wall_s: float, cpu_s: float) -> None: ...


class LedgerClient:
    """Calls the ledger actor and waits; errors come out as the ledger raised them."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """One call, by the name of a method of `Ledger`."""
        import ray

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments, **named))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise LedgerError(
                f"The ledger's process is gone for good: {first_line(error)}"
            ) from None

    def begin_attempt(
        self,
        attempt: str,
        *,
        mission: str,
        job: str,
        rank: int,
        host: str,
        pid: int,
        process_started: float | None = None,
    ) -> None:
        self.call(
            "begin_attempt",
            attempt,
            mission=mission,
            job=job,
            rank=rank,
            host=host,
            pid=pid,
            process_started=process_started,
        )

    def heartbeat(self, attempt: str) -> bool:
        return bool(self.call("heartbeat", attempt))

    def lease(self, attempt: str) -> Lease | None:
        lease: Lease | None = self.call("lease", attempt)
        return lease

    def start_pack(self, attempt: str, pack: str) -> None:
        self.call("start_pack", attempt, pack)

    def open_test(self, ticket: SplitTicket) -> None:
        self.call("open_test", ticket)

    def finish_run(self, attempt: str, result: RunResult) -> None:
        self.call("finish_run", attempt, result)

    def fail_run(
        self, attempt: str, run: str, *, cause: Cause, reason: str, traceback: str
    ) -> None:
        self.call("fail_run", attempt, run, cause=cause, reason=reason, traceback=traceback)

    def end_pack(self, attempt: str, pack: str) -> None:
        self.call("end_pack", attempt, pack)

    def end_attempt(self, attempt: str, cause: Cause | None = None, reason: str = "") -> None:
        self.call("end_attempt", attempt, cause, reason)

    def fail_mission(self, mission: str, *, reason: str, traceback: str) -> None:
        self.call("fail_mission", mission, reason=reason, traceback=traceback)

    def record_data(
        self, mission: str, digest: str, leaks: Mapping[str, int], summary: Mapping[str, int]
    ) -> None:
        self.call("record_data", mission, digest, dict(leaks), dict(summary))

    def set_phase(self, mission: str, phase: str) -> None:
        self.call("set_phase", mission, phase)

    def claim_extras(self, mission: str, attempt: str) -> bool:
        return bool(self.call("claim_extras", mission, attempt))

    def record_extras(self, mission: str, extras_json: str) -> None:
        self.call("record_extras", mission, extras_json)

    def log_points(self, points: Iterable[Point]) -> None:
        self.call("log_points", list(points))

    def event(self, level: str, source: str, text: str) -> None:
        self.call("event", level, source, text)

    def timing(self, mission: str, stage: str, name: str, wall_s: float, cpu_s: float) -> None:
        self.call("timing", mission, stage, name, wall_s, cpu_s)


def connect(namespace: str) -> LedgerClient:
    """The client of the launch's ledger actor, from inside any Ray process."""
    import ray

    return LedgerClient(ray.get_actor(LEDGER_ACTOR, namespace=namespace))
