"""What a launch looks like at one moment, computed from its ledger. Knows no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fleet.driver.driver_lock import HUNG_AFTER_S, Driver, driver_of, moment
from fleet.ledger.database import has_writer
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import MissionRow, PackRow
from fleet.settings import RunPaths
from fleet.states import RunState
from fleet.sweep.records import SWEEP_ONLY

ENDED_PHASES = frozenset({"judged", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmView:
    """One arm: the state of its run under each seed."""

    arm: str
    states: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionView:
    """One mission."""

    mission: str
    title: str
    phase: str
    seeds: tuple[int, ...]
    arms: tuple[ArmView, ...]
    done: int
    total: int
    failed: int
    elapsed_s: float | None
    eta_s: float | None
    verdict: str | None
    error: str | None
    interim: dict[str, Any] | None = None
    """The newest INTERIM view; None before the first seed is complete and after the verdict."""
    stopped: str | None = None
    """Why the mission ended before its planned seeds, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A launch."""

    run_id: str
    profile: str
    missions: tuple[MissionView, ...]
    elapsed_s: float
    silent_s: float | None
    """Longest time since a live worker was heard of; None where none works."""
    wall_s: float | None
    """Set when the launch is over."""
    interrupted: bool
    alive: bool
    """Whether a driver works on it."""
    driver: Driver | None = None
    """Who drives the launch, or drove it last; None in runs of older versions."""
    ended_by: str | None = None
    """How the newest driver ended, in its own words."""
    at: float = 0.0
    """When this was looked at."""
    go_on: str = ""
    """The command that goes on with it; empty for `resume`."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.wall_s is not None or self.interrupted or not self.alive

    @property
    def died(self) -> bool:
        """The launch ended without saying so: its driver was killed."""
        return not self.alive and self.wall_s is None and not self.interrupted

    @property
    def trouble(self) -> str:
        """What is wrong with the driver, in words, with the command that goes on; or empty."""
        resume = self.go_on or f"python fleet.py resume {self.run_id}"
        if self.died and self.ended_by:
            return f"ended: {self.ended_by}: {resume}"
        if self.died:
            since = f" since {moment(self.driver.seen)}" if self.driver is not None else ""
            return f"driver gone{since}: {resume}"
        if self.interrupted:
            return f"{self.ended_by}: {resume}"
        if self.over or self.driver is None:
            return ""
        silent_s = self.at - self.driver.seen
        if silent_s > HUNG_AFTER_S:
            return (
                f"driver (process {self.driver.pid}) silent for {silent_s:.0f} s: "
                f"python fleet.py stop {self.run_id}"
            )
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "over": self.over, "died": self.died, "trouble": self.trouble}


def take(reader: LedgerReader, *, now: float) -> Snapshot:
    """Looks at the ledger once."""
    meta = reader.meta()
    verdicts: dict[str, str] = {}
    stops: dict[str, str] = {}
    for kind, body in reader.bodies("verdict", "early_stop"):
        if kind == "verdict":
            verdicts[body["mission"]] = str(body["verdict"])
        else:
            stops[body["mission"]] = stop_text(body)
    rows = reader.missions()
    views = tuple(
        _mission(
            reader,
            row,
            verdicts.get(row.mission),
            now,
            interim=(meta.get(f"interim/{row.mission}") or [None])[-1],
            stopped=stops.get(row.mission),
        )
        for row in rows
    )
    starts = [row.started_at for row in rows if row.started_at]
    ends = [row.ended_at for row in rows if row.ended_at]
    wall_s = meta.get("wall_s")
    seen = reader.seen()
    driver = driver_of(RunPaths(root=reader.path.parent))
    alive = driver.alive if driver is not None else has_writer(reader.path)
    ended_by = how_it_ended(reader, driver, alive=alive)
    interrupted = was_stopped(ended_by)
    until = now
    if ends and (interrupted or wall_s is not None):
        until = max(ends)
    elif not alive and driver is not None:
        until = driver.seen
    return Snapshot(
        run_id=str(meta.get("run_id", "")),
        profile=str(meta.get("profile", "")),
        missions=views,
        elapsed_s=until - min(starts) if starts else 0.0,
        silent_s=max(now - at for at in seen.values()) if seen else None,
        wall_s=wall_s,
        interrupted=interrupted,
        alive=alive,
        driver=driver,
        ended_by=ended_by,
        at=now,
        go_on=str(meta.get(SWEEP_ONLY, "")),
    )


def how_it_ended(reader: LedgerReader, driver: Driver | None, *, alive: bool) -> str | None:
    """The end of the newest driver in its own words; None where it works, or was killed."""
    session = next(iter(reader.sessions()[-1:]), None)
    if session is None:  # a run of an older version
        cancelled = any(row.phase == "cancelled" for row in reader.missions())
        return "stopped" if cancelled else None
    if alive and driver is not None and driver.session != session.session:
        return None  # a new driver is coming up
    return session.how


def was_stopped(ended_by: str | None) -> bool:
    """Whether a launch ended because somebody asked it to."""
    return ended_by is not None and ended_by.startswith("stopped")


def stop_text(body: Mapping[str, Any]) -> str:
    """An early end in a few words, without the statistics package."""
    count = f"after {len(body['seeds'])} of {body['planned']} seeds"
    if body["kind"] == "success":
        return f"decided at a planned look {count}"
    chance = f"chance of gate {body['gate']} to pass {body['conditional_power']:.1%}"
    return f"stopped for futility {count} ({chance})"


def _mission(
    reader: LedgerReader,
    row: MissionRow,
    verdict: str | None,
    now: float,
    *,
    interim: dict[str, Any] | None,
    stopped: str | None,
) -> MissionView:
    runs = reader.states(row.mission)
    seeds = tuple(sorted({seed for _, seed, _ in runs}))
    by_arm: dict[str, dict[int, str]] = {}
    for arm, seed, state in runs:
        by_arm.setdefault(arm, {})[seed] = state
    elapsed = None
    if row.started_at is not None:
        elapsed = (row.ended_at or now) - row.started_at
    return MissionView(
        mission=row.mission,
        title=row.title,
        phase=row.phase,
        seeds=seeds,
        arms=tuple(
            ArmView(arm=arm, states=tuple(states.get(seed, "") for seed in seeds))
            for arm, states in by_arm.items()
        ),
        done=sum(state == RunState.DONE for _, _, state in runs),
        total=len(runs),
        failed=sum(state == RunState.FAILED for _, _, state in runs),
        elapsed_s=elapsed,
        eta_s=_eta(row, reader.packs(row.mission), now),
        verdict=verdict,
        error=row.error,
        interim=None if verdict else interim,
        stopped=stopped,
    )


def _eta(row: MissionRow, packs: list[PackRow], now: float) -> float | None:
    """Seconds left: the packs done so far say how long one takes, the plan until then."""
    if row.phase in ENDED_PHASES or row.started_at is None or not packs:
        return None
    took = [pack.ended_at - pack.leased_at for pack in packs if pack.ended_at and pack.leased_at]
    one = sum(took) / len(took) if took else row.expected_cpu_s / len(packs)
    if not one:
        return None
    held = [pack for pack in packs if pack.owner and pack.ended_at is None and pack.leased_at]
    waiting = sum(1 for pack in packs if pack.owner is None and pack.ended_at is None)
    left = sum(max(0.0, one - (now - (pack.leased_at or now))) for pack in held)
    return (left + waiting * one) / max(1, len(held))
