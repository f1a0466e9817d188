"""The fleet: every campaign in a line, what runs now, what went wrong, what this machine has left.

Plain data out; it draws nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from fleet.errors import LedgerError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Event
from fleet.monitor.snapshot import MissionView, Snapshot, take
from fleet.page import changes
from fleet.settings import RunPaths, list_runs

PER_PAGE = 20
TROUBLE = ("alarm", "alert", "error", "warning")
"""Levels of events that are shown as alerts, worst first."""
MAX_ALERTS = 50
MAX_EVENTS = 500
"""Of each level that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CampaignLine:
    """One campaign in the list."""

    run_id: str
    profile: str
    created: str
    state: str
    """running, done, stopped, died, or unreadable."""
    done: int
    total: int
    failed: int
    counts: Mapping[str, int]
    verdicts: tuple[tuple[str, str], ...]
    """(mission, verdict or phase)."""
    elapsed_s: float | None
    left_s: float | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """Something that a person should know."""

    run_id: str
    event: Event
    """The newest of those that say the same."""
    more: int
    """Others that say the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine that shows the page."""

    cpus: int
    load: float
    """Processes that want to run, averaged over a minute."""
    memory_used: int
    memory_total: int
    disk_free: int
    disk_total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetView:
    """Everything on the first page."""

    campaigns: tuple[CampaignLine, ...]
    running: tuple[CampaignLine, ...]
    total: int
    page: int
    pages: int
    alerts: tuple[Alert, ...]
    machine: Machine


def fleet_view(runs_dir: Path, page: int = 1) -> FleetView:
    """Looks at every campaign of the page, newest first."""
    runs = list_runs(runs_dir)
    pages = max(1, -(-len(runs) // PER_PAGE))
    page = min(max(1, page), pages)
    shown = runs[(page - 1) * PER_PAGE : page * PER_PAGE]
    lines = [line_of(paths) for paths in shown]
    alerts = [
        alert
        for paths, line in zip(shown, lines, strict=True)
        if line.state != "unreadable"
        for alert in trouble(paths)
    ]
    alerts.sort(key=lambda alert: -alert.event.at)
    return FleetView(
        campaigns=tuple(lines),
        running=tuple(line for line in lines if line.state == "running"),
        total=len(runs),
        page=page,
        pages=pages,
        alerts=tuple(alerts[:8]),
        machine=machine(runs_dir),
    )


def line_of(paths: RunPaths) -> CampaignLine:
    """One campaign; a finished one is read once and kept as long as its files stay the same."""
    token = changes.of_folder([paths])
    line = _line(paths.root, token)
    return _line.__wrapped__(paths.root, token) if line.state == "running" else line


@lru_cache(maxsize=512)
def _line(root: Path, token: str) -> CampaignLine:
    paths = RunPaths(root=root)
    try:
        with LedgerReader(paths.ledger) as reader:
            snapshot = take(reader, now=time.time())
            created = str(reader.meta().get("created", ""))
            counts = total_counts(reader)
    except LedgerError as error:
        return CampaignLine(
            run_id=paths.run_id,
            profile="",
            created="",
            state="unreadable",
            done=0,
            total=0,
            failed=0,
            counts={},
            verdicts=(),
            elapsed_s=None,
            left_s=None,
            problem=str(error),
        )
    return CampaignLine(
        run_id=paths.run_id,
        profile=snapshot.profile,
        created=created[:16].replace("T", " "),
        state=state_of(snapshot),
        done=sum(mission.done for mission in snapshot.missions),
        total=sum(mission.total for mission in snapshot.missions),
        failed=sum(mission.failed for mission in snapshot.missions),
        counts=counts,
        verdicts=tuple((m.mission, m.verdict or m.phase) for m in in_order(snapshot)),
        elapsed_s=snapshot.elapsed_s,
        left_s=left_of(snapshot),
        problem=snapshot.trouble,
    )


def in_order(snapshot: Snapshot) -> list[MissionView]:
    """Missions by id: their place on the page does not depend on the order of work."""
    return sorted(snapshot.missions, key=lambda mission: mission.mission)


def state_of(snapshot: Snapshot) -> str:
    """running, done, stopped or died."""
    if snapshot.wall_s is not None:
        return "done"
    if snapshot.interrupted:
        return "stopped"
    return "died" if snapshot.died else "running"


def left_of(snapshot: Snapshot) -> float | None:
    """Seconds left: those of the slowest mission."""
    if snapshot.over:
        return None
    left = [mission.eta_s for mission in snapshot.missions if mission.eta_s is not None]
    return max(left) if left else None


def total_counts(reader: LedgerReader) -> dict[str, int]:
    """State -> runs, over all missions."""
    found: dict[str, int] = {}
    for states in reader.counts().values():
        for state, count in states.items():
            found[state.value] = found.get(state.value, 0) + count
    return found


def trouble(paths: RunPaths) -> list[Alert]:
    """The newest events that are no mere information, newest first, each text once."""
    with LedgerReader(paths.ledger) as reader:
        found = [
            event for level in TROUBLE for event in reader.events(level=level, limit=MAX_EVENTS)
        ]
    same: dict[tuple[str, str], list[Event]] = {}
    for event in sorted(found, key=lambda event: -event.at):
        same.setdefault((event.level, event.text), []).append(event)
    alerts = [
        Alert(run_id=paths.run_id, event=events[0], more=len(events) - 1)
        for events in same.values()
    ]
    return alerts[:MAX_ALERTS]


def machine(folder: Path) -> Machine:
    """What this machine has; of a cluster the dashboard knows more."""
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(folder if folder.is_dir() else Path("."))
    return Machine(
        cpus=psutil.cpu_count() or 1,
        load=psutil.getloadavg()[0],
        memory_used=memory.total - memory.available,
        memory_total=memory.total,
        disk_free=disk.free,
        disk_total=disk.total,
    )
