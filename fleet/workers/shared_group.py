"""A worker group that trains each run together: one process leads, the others follow.

The leader leases packs and hands results over; what it leases is broadcast, so that every process
walks through the same packs. A follower does the same work and keeps its results to itself. Knows
the ledger by its port only, and no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bem.distributed import Share
from fleet.errors import FleetError
from fleet.ledger.records import Lease, Point, RunResult, SplitTicket
from fleet.policies import Cause
from fleet.workers.worker_ledger import WorkerLedger


class LeaderLedger:
    """The ledger of the process that speaks for the group: what it leases, all learn."""

    def __init__(self, ledger: WorkerLedger, share: Share) -> None:
        self._ledger = ledger
        self._share = share
        self.begin_attempt = ledger.begin_attempt
        self.heartbeat = ledger.heartbeat
        self.start_pack = ledger.start_pack
        self.open_test = ledger.open_test
        self.finish_run = ledger.finish_run
        self.fail_run = ledger.fail_run
        self.end_pack = ledger.end_pack
        self.fail_mission = ledger.fail_mission
        self.record_data = ledger.record_data
        self.set_phase = ledger.set_phase
        self.record_extras = ledger.record_extras
        self.log_points = ledger.log_points
        self.event = ledger.event
        self.timing = ledger.timing

    def lease(self, attempt: str) -> Lease | None:
        """The next pack, told to the group."""
        lease: Lease | None = self._share.broadcast(self._ledger.lease(attempt))
        return lease

    def claim_extras(self, mission: str, attempt: str) -> bool:
        """Whether the group makes the report's extras."""
        return bool(self._share.broadcast(self._ledger.claim_extras(mission, attempt)))

    def end_attempt(self, attempt: str, cause: Cause | None = None, reason: str = "") -> None:
        """The leader leaves, and the group ends with it."""
        self._ledger.end_attempt(attempt, cause, reason)
        self._share.close()


class FollowerLedger:
    """The ledger of the other processes: they report that they live, and nothing else."""

    def __init__(self, ledger: WorkerLedger, share: Share) -> None:
        self._share = share
        self.begin_attempt = ledger.begin_attempt
        self.heartbeat = ledger.heartbeat
        self.end_attempt = ledger.end_attempt
        self.event = ledger.event

    def lease(self, attempt: str) -> Lease | None:
        """What the leader leased; nothing where it has left."""
        try:
            lease: Lease | None = self._share.broadcast(None)
        except RuntimeError:  # its connection is closed: it was told to stop before we were
            return None
        return lease

    def claim_extras(self, mission: str, attempt: str) -> bool:
        """As the leader says: a sharded base takes every process for a forward."""
        try:
            return bool(self._share.broadcast(None))
        except RuntimeError:  # as above
            return False

    def fail_run(
        self, attempt: str, run: str, *, cause: Cause, reason: str, traceback: str
    ) -> None:
        """A follower that cannot go on takes the group down; the leader's failures are recorded."""
        raise FleetError(f"{run}: worker {self._share.rank} of the group failed: {reason}")

    def fail_mission(self, mission: str, *, reason: str, traceback: str) -> None:
        """As `fail_run`."""
        raise FleetError(f"{mission}: worker {self._share.rank} of the group failed: {reason}")

    def start_pack(self, attempt: str, pack: str) -> None:
        """The leader's to say."""

    def open_test(self, ticket: SplitTicket) -> None:
        """The leader's to ask; what a follower scores goes nowhere."""

    def finish_run(self, attempt: str, result: RunResult) -> None:
        """The leader's to hand over."""

    def end_pack(self, attempt: str, pack: str) -> None:
        """The leader's to say."""

    def record_data(
        self, mission: str, digest: str, leaks: Mapping[str, int], summary: Mapping[str, int]
    ) -> None:
        """The leader's to say."""

    def set_phase(self, mission: str, phase: str) -> None:
        """The leader's to say."""

    def record_extras(self, mission: str, extras_json: str) -> None:
        """The leader's to hand over."""

    def log_points(self, points: Iterable[Point]) -> None:
        """The leader's to log."""

    def timing(self, mission: str, stage: str, name: str, wall_s: float, cpu_s: float) -> None:
        """The leader's to say."""


def ledger_of(ledger: WorkerLedger, share: Share) -> WorkerLedger:
    """The ledger as this process of the group uses it."""
    return LeaderLedger(ledger, share) if share.leads else FollowerLedger(ledger, share)
