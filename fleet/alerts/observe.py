"""What the rules look at, read once from a ledger and the disk below it. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from fleet.driver.driver_lock import driver_of
from fleet.ledger.reader import LedgerReader
from fleet.monitor.snapshot import ENDED_PHASES, how_it_ended, was_stopped
from fleet.settings import RunPaths
from fleet.states import RunState

VIOLATION = "signal/violation"
"""Share of answers that violate the policy."""
ROLLBACK = "signal/rollback"
"""1 at a prompt after which a living model was rolled back without a planned reason."""
DRIFT = "signal/drift"
"""1 at a prompt at which the error level of a living model was found to have changed."""
SIGNALS = (VIOLATION, ROLLBACK, DRIFT)
"""Scalars that the rules read; a mission logs them through its context like any other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRun:
    """A run in FAILED."""

    run: str
    mission: str
    cause: str
    """The part of the reason before the first colon: error, nonfinite, worker_died, oom."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionSeen:
    """One mission at the moment of looking."""

    mission: str
    phase: str
    moved_at: float
    """When anything last happened in it: a state, a scalar, a trial, or a worker's start."""
    counts: Mapping[str, int]
    """State -> runs."""
    stale: tuple[str, ...] = ()
    """Runs whose worker is silent."""
    preemptions: int = 0
    """How often a run of it was PREEMPTED."""
    deaths: int = 0
    """How many of its workers died."""

    @property
    def at_work(self) -> bool:
        """Whether something should be happening."""
        # A group that waits for its slot has a limit and an error of its own.
        return self.phase not in {"waiting", "starting", *ENDED_PHASES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """The values of one signal of one run, in order of step."""

    run: str
    mission: str
    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """A launch as the rules see it."""

    run_id: str
    now: float
    alive: bool
    """Whether a driver writes the ledger."""
    over: bool
    """Whether the launch has come to its end, or was stopped."""
    disk_free_mib: float
    missions: tuple[MissionSeen, ...] = ()
    failed: tuple[FailedRun, ...] = ()
    signals: tuple[Signal, ...] = ()
    alarms: tuple[tuple[str, str], ...] = field(default=())
    """(source, text) of events of level alarm: a checkpoint set aside, a key with two values."""


def observe(reader: LedgerReader, *, alive: bool, now: float) -> Observation:
    """Looks once.

    Args:
        alive: whether the caller knows a driver to be at work.
        now: seconds since the epoch.
    """
    meta = reader.meta()
    driver = driver_of(RunPaths(root=reader.path.parent))
    missions = reader.missions()
    last = (reader.last_moves(), reader.last_trials(), reader.last_starts())
    preempted, died = reader.preemptions(), reader.deaths()
    counts = reader.counts()
    runs = reader.runs()
    mission_of = {run.run: run.mission for run in runs}
    # A mission whose workers are still coming up has not moved yet: its driver's start counts.
    began = max((session.started_at for session in reader.sessions()), default=0.0)
    return Observation(
        run_id=str(meta.get("run_id", "")),
        now=now,
        alive=alive,
        over=meta.get("wall_s") is not None
        or was_stopped(how_it_ended(reader, driver, alive=alive)),
        disk_free_mib=psutil.disk_usage(str(reader.path.parent)).free / 2**20,
        missions=tuple(
            MissionSeen(
                mission=row.mission,
                phase=row.phase,
                moved_at=max(
                    *(times.get(row.mission, 0.0) for times in last),
                    row.started_at or 0.0,
                    began,
                ),
                counts={state.value: n for state, n in counts.get(row.mission, {}).items()},
                stale=tuple(
                    run.run
                    for run in runs
                    if run.mission == row.mission and run.state is RunState.STALE
                ),
                preemptions=preempted.get(row.mission, 0),
                deaths=died.get(row.mission, 0),
            )
            for row in missions
        ),
        failed=tuple(
            FailedRun(
                run=run.run,
                mission=run.mission,
                cause=run.reason.partition(":")[0],
                reason=run.reason,
            )
            for run in runs
            if run.state is RunState.FAILED
        ),
        signals=tuple(
            Signal(run=run, mission=mission_of[run], name=name, points=tuple(points))
            for (run, name), points in reader.series(*SIGNALS).items()
        ),
        alarms=tuple((event.source, event.text) for event in reader.events(level="alarm")),
    )
