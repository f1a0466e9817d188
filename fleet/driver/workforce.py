"""The worker groups of a campaign: which are up, and which mission an idle slot helps.

Knows what the coordinator remembers of a mission; reads the ledger, starts and ends nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.driver.between_seeds import SeedWatch
from fleet.driver.mission_job import JobThread
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import AttemptRow
from fleet.plan import MissionWork
from fleet.policies import Holder, Job, Load, Node, Wait, place, reinforce
from fleet.sweep.tuning import SweepThread

STARTUP_S = 12.0
"""Seconds that a new worker group needs on a busy machine (measured)."""
_LEFT = frozenset({"left", "stopped"})
"""Outcomes of attempts that nobody restarts."""


@dataclass(kw_only=True, slots=True)
class CampaignMission:
    """What the loop remembers of a mission; everything else is read from the ledger."""

    work: MissionWork
    jobs: list[JobThread] = field(default_factory=list)
    verdict_ref: Any = None
    verdict: dict[str, Any] | None = None
    ready_since: float | None = None
    """Since when it could have started, had there been room."""
    watch: SeedWatch | None = None
    """Set once the ledger is open."""
    finished_before: bool = False
    """Whether nothing is left but the verdict: an earlier driver, or a failed sweep, saw to it."""
    sweep: SweepThread | None = None
    """The sweep of this driver, once it has begun."""
    swept: bool = False
    """Whether the sweep is settled; `work` holds what it chose."""

    @property
    def stopped(self) -> dict[str, Any] | None:
        """Why the mission ended before its planned seeds, if it did."""
        return self.watch.stop if self.watch is not None else None

    @property
    def started(self) -> bool:
        """Whether the mission waits for nothing: it has workers, or needs none."""
        return bool(self.jobs) or self.finished_before

    @property
    def to_sweep(self) -> bool:
        """Whether the mission's sweep comes next."""
        return self.work.spec.sweep is not None and not self.swept and self.sweep is None

    @property
    def sweeping(self) -> bool:
        """Whether its sweep is at work, or ended and not yet settled."""
        return self.sweep is not None and not self.swept and not self.finished_before

    @property
    def over(self) -> bool:
        return self.verdict is not None


def running_jobs(missions: Iterable[CampaignMission], reader: LedgerReader) -> list[Job]:
    """Every worker group that is up or on deck, the helpers of a mission each for itself.

    Workers that reported count on the node where they are.
    """
    return [job for mission in missions for _, job in _groups_up(mission, reader)]


def _groups_up(mission: CampaignMission, reader: LedgerReader) -> list[tuple[JobThread, Job]]:
    """A mission's groups that have not ended, with their workers as they stand now.

    A group may end at any moment, in its own thread: each is asked once.
    """
    alive = [thread for thread in mission.jobs if not thread.ended]
    if not alive:
        return []
    newest: dict[str, dict[int, AttemptRow]] = {}
    for attempt in reader.attempts(mission.work.mission):
        newest.setdefault(attempt.job, {})[attempt.rank] = attempt
    found = []
    for thread in alive:
        workers = newest.get(thread.name, {}).values()
        up = tuple(worker.host for worker in workers if worker.ended_at is None)
        gone = sum(worker.outcome in _LEFT for worker in workers)
        found.append((thread, replace(thread.job, workers=thread.job.workers - gone, at=up)))
    return found


def note_waits(
    missions: Iterable[CampaignMission],
    reader: LedgerReader,
    nodes: tuple[Node, ...],
    now: float,
) -> list[tuple[JobThread, Wait]]:
    """Worker groups with workers still to come up although their turn has come.

    A group on deck waits for its own launch's missions, which is no wait to complain of.
    """
    found = []
    free = nodes
    for mission in missions:
        for thread, job in _groups_up(mission, reader):
            left = place([job], free)
            if left is None or len(job.at) >= job.workers:
                thread.waits_since = None
                free = free if left is None else left
                continue
            free = left
            if thread.waits_since is None:
                thread.waits_since = now
            wait = Wait(
                mission=thread.mission,
                request=job.request,
                workers=job.workers - len(job.at),
                waited_s=now - thread.waits_since,
            )
            found.append((thread, wait))
    return found


def our_holders(missions: Iterable[CampaignMission], reader: LedgerReader) -> list[Holder]:
    """What this launch's own workers hold, node by node."""
    return [
        Holder(who=f"mission {job.name}", what=f"{count} x ({job.request})", node=node)
        for job in running_jobs(missions, reader)
        for node, count in Counter(job.at).items()
    ]


def choose_helped(
    missions: Mapping[str, CampaignMission],
    spare: tuple[Node, ...],
    reader: LedgerReader,
) -> str | None:
    """The mission with the longest queue, where a slot is idle and one more worker helps."""
    if not any(node.cpus >= 1 for node in spare):
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
    return reinforce(loads, spare, startup_s=STARTUP_S, on_deck=0)


def groups_of(job: Job) -> list[Job]:
    """The worker groups in which a mission's workers are started.

    Workers that lease packs for themselves are a group each: Train restarts a group as a whole,
    and the loss of one node must not touch the work on another.
    """
    return [job] if job.shared else [one_worker(job)] * job.workers


def one_worker(job: Job) -> Job:
    """A worker group of one."""
    return replace(job, workers=1, at=())
