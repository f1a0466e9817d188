"""Every metric that a launch exports: name, kind, labels, and its value from an observation.

Pure. Ray adds the prefix `ray_` and labels of its own (node, process), so rules aggregate with
`max by`. No value is ever NaN: Ray drops a NaN gauge, and an alert on it would never fire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fleet.alerts.observe import DRIFT, ROLLBACK, VIOLATION, Observation
from fleet.states import RunState

Kind = Literal["gauge", "counter"]
Sample = tuple[dict[str, str], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric; Prometheus knows it as `ray_` + name."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    """Beside `run_id`, which every metric carries."""
    read: Callable[[Observation], Iterable[Sample]]


def _runs(seen: Observation) -> Iterator[Sample]:
    for mission in seen.missions:
        for state in RunState:
            labels = {"mission": mission.mission, "state": state.value}
            yield labels, float(mission.counts.get(state.value, 0))


def _failed(seen: Observation) -> Iterator[Sample]:
    for mission in seen.missions:
        here = [run for run in seen.failed if run.mission == mission.mission]
        yield {"mission": mission.mission}, float(sum(r.cause != "nonfinite" for r in here))


def _non_finite(seen: Observation) -> Iterator[Sample]:
    for mission in seen.missions:
        here = [run for run in seen.failed if run.mission == mission.mission]
        yield {"mission": mission.mission}, float(sum(r.cause == "nonfinite" for r in here))


def _of_mission(name: str, seen: Observation, mission: str) -> list[tuple[tuple[int, float], ...]]:
    return [
        signal.points
        for signal in seen.signals
        if signal.name == name and signal.mission == mission
    ]


def _counted(name: str) -> Callable[[Observation], Iterator[Sample]]:
    def read(seen: Observation) -> Iterator[Sample]:
        for mission in seen.missions:
            series = _of_mission(name, seen, mission.mission)
            total = sum(value > 0 for points in series for _, value in points)
            yield {"mission": mission.mission}, float(total)

    return read


def _violation_rise(seen: Observation) -> Iterator[Sample]:
    for mission in seen.missions:
        rises = [
            points[-1][1] - points[-2][1]
            for points in _of_mission(VIOLATION, seen, mission.mission)
            if len(points) > 1
        ]
        yield {"mission": mission.mission}, max(rises, default=0.0)


def _each(
    value: Callable[[Observation, int], float],
) -> Callable[[Observation], Iterator[Sample]]:
    def read(seen: Observation) -> Iterator[Sample]:
        for at, mission in enumerate(seen.missions):
            yield {"mission": mission.mission}, value(seen, at)

    return read


METRICS: tuple[Metric, ...] = (
    Metric(
        name="fleet_driver_clock_seconds",
        kind="gauge",
        help="Unix time of the driver's last look; stands still when the driver is gone",
        labels=(),
        read=lambda seen: [({}, seen.now)],
    ),
    Metric(
        name="fleet_over",
        kind="gauge",
        help="1 when the launch has come to its end or was stopped, else 0",
        labels=(),
        read=lambda seen: [({}, float(seen.over))],
    ),
    Metric(
        name="fleet_disk_free_mebibytes",
        kind="gauge",
        help="Free space on the disk of the runs folder, MiB",
        labels=(),
        read=lambda seen: [({}, seen.disk_free_mib)],
    ),
    Metric(
        name="fleet_alarms_total",
        kind="counter",
        help="Stored data that contradicts itself: checkpoints set aside, keys with two values",
        labels=(),
        read=lambda seen: [({}, float(len(seen.alarms)))],
    ),
    Metric(
        name="fleet_runs",
        kind="gauge",
        help="Runs by state",
        labels=("mission", "state"),
        read=_runs,
    ),
    Metric(
        name="fleet_mission_at_work",
        kind="gauge",
        help="1 while something should be happening in the mission, else 0",
        labels=("mission",),
        read=_each(lambda seen, at: float(seen.missions[at].at_work)),
    ),
    Metric(
        name="fleet_mission_silent_seconds",
        kind="gauge",
        help="Seconds since anything moved, logged or finished in the mission",
        labels=("mission",),
        read=_each(
            lambda seen, at: (
                seen.now - seen.missions[at].moved_at if seen.missions[at].moved_at else 0.0
            )
        ),
    ),
    Metric(
        name="fleet_failed_runs",
        kind="gauge",
        help="Runs that failed, non-finite ones not counted",
        labels=("mission",),
        read=_failed,
    ),
    Metric(
        name="fleet_non_finite_runs",
        kind="gauge",
        help="Runs that failed by a NaN or an infinite loss, gradient or score",
        labels=("mission",),
        read=_non_finite,
    ),
    Metric(
        name="fleet_worker_deaths_total",
        kind="counter",
        help="Times that a worker process died, by a kill, a hang or want of memory",
        labels=("mission",),
        read=_each(lambda seen, at: float(seen.missions[at].deaths)),
    ),
    Metric(
        name="fleet_preemptions_total",
        kind="counter",
        help="Preempted runs; they go on elsewhere and are not counted as tries",
        labels=("mission",),
        read=_each(lambda seen, at: float(seen.missions[at].preemptions)),
    ),
    Metric(
        name="fleet_rollbacks_total",
        kind="counter",
        help="Rollbacks of living models outside planned disturbances",
        labels=("mission",),
        read=_counted(ROLLBACK),
    ),
    Metric(
        name="fleet_drifts_total",
        kind="counter",
        help="Changes of the error level of living models",
        labels=("mission",),
        read=_counted(DRIFT),
    ),
    Metric(
        name="fleet_violation_rise_ratio",
        kind="gauge",
        help="Largest rise of a share of policy violations over its value before",
        labels=("mission",),
        read=_violation_rise,
    ),
)


def values_of(metric: Metric, seen: Observation) -> list[Sample]:
    """The samples of one metric, `run_id` among their labels."""
    return [({"run_id": seen.run_id, **labels}, value) for labels, value in metric.read(seen)]
