"""The worker groups of a campaign: which are up, and which mission an idle slot helps.

Knows what the coordinator remembers of a mission; reads the ledger, starts and ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.between_seeds import SeedWatch
from fleet.ledger.reader import LedgerReader
from fleet.mission_job import JobThread
from fleet.plan import MissionWork
from fleet.policies import Job, Load, Node, place, reinforce

STARTUP_S = 12.0
"""Seconds that a new worker group needs on a busy machine (measured)."""


@dataclass(kw_only=True, slots=True)
class CampaignMission:
    """What the loop remembers of a mission; everything else is read from the ledger."""

    work: MissionWork
    jobs: list[JobThread] = field(default_factory=list)
    verdict_ref: Any = None
    verdict: dict[str, Any] | None = None
    watch: SeedWatch | None = None
    """Set once the ledger is open."""

    @property
    def stopped(self) -> dict[str, Any] | None:
        """Why the mission ended before its planned seeds, if it did."""
        return self.watch.stop if self.watch is not None else None

    @property
    def over(self) -> bool:
        return self.verdict is not None


def running_jobs(missions: Iterable[CampaignMission]) -> list[Job]:
    """Every worker group that is up or on deck, the helpers of a mission each for itself."""
    found = []
    for mission in missions:
        for number, job in enumerate(mission.jobs):
            if not job.ended:
                found.append(mission.work.job if not number else one_worker(mission.work.job))
    return found


def choose_helped(
    missions: Mapping[str, CampaignMission],
    running: list[Job],
    nodes: tuple[Node, ...],
    reader: LedgerReader,
) -> str | None:
    """The mission with the longest queue, where a slot is idle and one more worker helps."""
    free = place(running, nodes)
    if not free or not any(node.cpus >= 1 for node in free):
        return None
    loads = []
    for name, mission in missions.items():
        alive = [job for job in mission.jobs if not job.ended]
        if not alive or mission.stopped is not None:
            continue
        packs = reader.packs(name)
        took = [p.ended_at - p.leased_at for p in packs if p.ended_at and p.leased_at]
        expected = mission.work.expected_cpu_s / max(1, len(packs))
        loads.append(
            Load(
                job=one_worker(mission.work.job),
                open_packs=sum(1 for p in packs if p.owner is None and p.ended_at is None),
                pack_s=sum(took) / len(took) if took else expected,
                helpers=len(alive),
            )
        )
    return reinforce(loads, free, startup_s=STARTUP_S, on_deck=0)


def one_worker(job: Job) -> Job:
    """A worker group of one, for a mission that is helped."""
    return Job(name=job.name, request=job.request, workers=1, depends_on=job.depends_on)
