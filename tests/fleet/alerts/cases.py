"""One launch for each rule in which it holds, and a calm one. Data only."""

from __future__ import annotations

from dataclasses import replace

from fleet.alerts.observe import (
    DRIFT,
    ROLLBACK,
    VIOLATION,
    FailedRun,
    MissionSeen,
    Observation,
    Signal,
)

NOW = 10_000.0
MISSION = MissionSeen(
    mission="B", phase="running", moved_at=NOW - 5, counts={"RUNNING": 1, "DONE": 3}
)
CALM = Observation(
    run_id="r1",
    now=NOW,
    alive=True,
    over=False,
    disk_free_mib=50_000.0,
    missions=(MISSION,),
    signals=(
        Signal(run="B-a-s0", mission="B", name=VIOLATION, points=((0, 0.4), (1, 0.1))),
        Signal(run="B-a-s0", mission="B", name=ROLLBACK, points=((50, 0.0), (100, 0.0))),
    ),
)


def _failed(cause: str) -> Observation:
    run = FailedRun(run="B-a-s1", mission="B", cause=cause, reason=f"{cause}: it broke")
    return replace(CALM, failed=(run,), missions=(replace(MISSION, counts={"FAILED": 1}),))


def _signal(name: str, *points: tuple[int, float]) -> Observation:
    return replace(CALM, signals=(Signal(run="B-a-s0", mission="B", name=name, points=points),))


CASES: dict[str, Observation] = {
    "DriverGone": replace(CALM, alive=False),
    "RunStalled": replace(
        CALM, missions=(replace(MISSION, counts={"STALE": 1}, stale=("B-a-s1",)),)
    ),
    "NoProgress": replace(CALM, missions=(replace(MISSION, moved_at=NOW - 700),)),
    "RunFailed": _failed("error"),
    "NonFinite": _failed("nonfinite"),
    "WorkerDied": replace(CALM, missions=(replace(MISSION, deaths=1),)),
    "Preempted": replace(CALM, missions=(replace(MISSION, preemptions=3),)),
    "DiskLow": replace(CALM, disk_free_mib=2000.0),
    "ViolationSpike": _signal(VIOLATION, (0, 0.1), (1, 0.2)),
    "Rollback": _signal(ROLLBACK, (50, 0.0), (100, 1.0)),
    "Drift": _signal(DRIFT, (70, 1.0)),
    "Alarm": replace(CALM, alarms=(("B-a-s1", "checkpoint 7 was set aside: sha256 differs"),)),
}
