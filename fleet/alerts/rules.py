"""The table of alerts. Pure: an observation and thresholds in, findings out.

Each rule also carries its form for Prometheus, over the metrics of `fleet.metrics.catalog`; the
two are tested against the same cases. A rule that needs patience has it in what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from fleet.alerts.config import AlertConfig
from fleet.alerts.observe import DRIFT, ROLLBACK, VIOLATION, Observation

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A rule that holds for one subject."""

    subject: str
    """Mission, run or machine; a rule and a subject together are one alert."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One line of the table."""

    id: str
    severity: Severity
    title: str
    advice: str
    """What to do, in a sentence."""
    find: Callable[[Observation, AlertConfig], Iterator[Finding]]
    promql: Callable[[AlertConfig], str]


def _driver_gone(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    if not seen.alive and not seen.over:
        yield Finding(
            subject="driver",
            text=f"the driver of run {seen.run_id} is gone; nothing works on what is open",
        )


def _stalled(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    for mission in seen.missions:
        for run in mission.stale:
            yield Finding(subject=run, text="its worker has not been heard of; it may only be slow")


def _no_progress(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    for mission in seen.missions:
        silent_s = seen.now - mission.moved_at
        if seen.alive and mission.at_work and silent_s > config.no_progress_s:
            yield Finding(
                subject=mission.mission,
                text=f"{mission.phase}, and nothing has happened for {silent_s:.0f} s",
            )


def _failed(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    for run in seen.failed:
        if run.cause != "nonfinite":
            yield Finding(subject=run.run, text=run.reason)


def _non_finite(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    for run in seen.failed:
        if run.cause == "nonfinite":
            yield Finding(subject=run.run, text=run.reason)


def _worker_died(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    for mission in seen.missions:
        if mission.deaths:
            yield Finding(subject=mission.mission, text=f"a worker died {_times(mission.deaths)}")


def _preempted(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    for mission in seen.missions:
        if mission.preemptions >= config.preemptions:
            yield Finding(
                subject=mission.mission,
                text=f"preempted {mission.preemptions} times; its runs go on elsewhere",
            )


def _disk_low(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    if seen.disk_free_mib < config.disk_low_mib:
        yield Finding(
            subject="disk",
            text=f"{seen.disk_free_mib:,.0f} MiB left below the runs folder, "
            f"{config.disk_low_mib:,.0f} wanted",
        )


def _violation_spike(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    rises: dict[str, list[tuple[float, str]]] = {}
    for signal in seen.signals:
        if signal.name != VIOLATION or len(signal.points) < 2:
            continue
        (_, before), (step, now) = signal.points[-2:]
        if now - before > config.violation_rise:
            text = f"{signal.run}: violations rose from {before:.1%} to {now:.1%} (step {step})"
            rises.setdefault(signal.mission, []).append((now - before, text))
    for mission, found in rises.items():
        yield Finding(subject=mission, text=f"{max(found)[1]}{_others(len(found))}")


def _counted(name: str, text: str) -> Callable[[Observation, AlertConfig], Iterator[Finding]]:
    def find(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
        hits: dict[str, dict[str, int]] = {}
        for signal in seen.signals:
            times = sum(value > 0 for _, value in signal.points)
            if signal.name == name and times:
                hits.setdefault(signal.mission, {})[signal.run] = times
        for mission, runs in hits.items():
            most = max(runs, key=lambda run: runs[run])
            yield Finding(
                subject=mission,
                text=f"{most} {text} {_times(runs[most])}{_others(len(runs))}",
            )

    return find


def _others(runs: int) -> str:
    """What is left unsaid of a mission with several runs of a kind."""
    if runs == 1:
        return ""
    return ", and one more run likewise" if runs == 2 else f", and {runs - 1} more runs likewise"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _alarm(seen: Observation, config: AlertConfig) -> Iterator[Finding]:
    for source, text in seen.alarms:
        yield Finding(subject=source, text=text)


def _above(metric: str, by: str = "run_id, mission") -> Callable[[AlertConfig], str]:
    return lambda config: f"max by ({by}) (ray_fleet_{metric}) > 0"


RULES: tuple[Rule, ...] = (
    Rule(
        id="DriverGone",
        severity="critical",
        title="The driver of a launch is gone",
        advice="`python fleet.py resume RUN` goes on from what is finished.",
        find=_driver_gone,
        # Ray keeps the last value of a dead process for a while: its clock stands still.
        promql=lambda c: (
            f"time() - max by (run_id) (ray_fleet_driver_clock_seconds) > {c.driver_silent_s:g}"
            " and on (run_id) max by (run_id) (ray_fleet_over) == 0"
        ),
    ),
    Rule(
        id="RunStalled",
        severity="warning",
        title="A worker is silent",
        advice="Look at its node; it is replaced by itself when it stays silent.",
        find=_stalled,
        promql=lambda c: 'max by (run_id, mission) (ray_fleet_runs{state="STALE"}) > 0',
    ),
    Rule(
        id="NoProgress",
        severity="warning",
        title="A mission does not get on",
        advice="`python fleet.py logs RUN --missions M` shows what it does.",
        find=_no_progress,
        promql=lambda c: (
            "max by (run_id, mission) (ray_fleet_mission_silent_seconds) > "
            f"{c.no_progress_s:g} and on (run_id, mission) "
            "max by (run_id, mission) (ray_fleet_mission_at_work) == 1"
        ),
    ),
    Rule(
        id="RunFailed",
        severity="critical",
        title="A run failed",
        advice="`python fleet.py status RUN` has its traceback; `retry --failed` runs it again.",
        find=_failed,
        promql=_above("failed_runs"),
    ),
    Rule(
        id="NonFinite",
        severity="critical",
        title="A loss, gradient or score is NaN or infinite",
        advice="Lower its learning rate or look at its data: it would fail the same way again.",
        find=_non_finite,
        promql=_above("non_finite_runs"),
    ),
    Rule(
        id="WorkerDied",
        severity="warning",
        title="A worker died",
        advice="`python fleet.py logs RUN --missions M` has its last words; three fail a pack.",
        find=_worker_died,
        promql=_above("worker_deaths_total"),
    ),
    Rule(
        id="Preempted",
        severity="info",
        title="A mission loses its machines often",
        advice="Its runs go on from their checkpoints; on-demand workers would be quieter.",
        find=_preempted,
        promql=lambda c: (
            f"max by (run_id, mission) (ray_fleet_preemptions_total) >= {c.preemptions}"
        ),
    ),
    Rule(
        id="DiskLow",
        severity="critical",
        title="The disk below the runs folder fills up",
        advice="Free space or remove old runs; a launch that meets a full disk ends with code 5.",
        find=_disk_low,
        promql=lambda c: f"min by (run_id) (ray_fleet_disk_free_mebibytes) < {c.disk_low_mib:g}",
    ),
    Rule(
        id="ViolationSpike",
        severity="warning",
        title="Violations of the policy rise",
        advice="Do not promote it; compare the knob curve in the mission's report.",
        find=_violation_spike,
        promql=lambda c: (
            f"max by (run_id, mission) (ray_fleet_violation_rise_ratio) > {c.violation_rise:g}"
        ),
    ),
    Rule(
        id="Rollback",
        severity="warning",
        title="A living model was rolled back outside its planned disturbance",
        advice="Look at the canary curve of the run: feedback may be wrong or poisoned.",
        find=_counted(ROLLBACK, "rolled back"),
        promql=lambda c: "max by (run_id, mission) (ray_fleet_rollbacks_total) > 0",
    ),
    Rule(
        id="Drift",
        severity="info",
        title="The errors of a living model changed level",
        advice="Expected after an injected change; elsewhere the traffic has changed.",
        find=_counted(DRIFT, "error level changed"),
        promql=lambda c: "max by (run_id, mission) (ray_fleet_drifts_total) > 0",
    ),
    Rule(
        id="Alarm",
        severity="critical",
        title="Stored data contradicts itself",
        advice="A checkpoint was set aside or one key came with two values: see the event.",
        find=_alarm,
        promql=lambda c: "max by (run_id) (ray_fleet_alarms_total) > 0",
    ),
)
