"""What goes into a simulated launch, what comes out, and the bound it is held against. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet.policies import Job, Node


@dataclass(frozen=True, kw_only=True, slots=True)
class SimMission:
    """A mission as the simulator sees it."""

    job: Job
    pack_s: tuple[float, ...]
    """Seconds that each pack takes on one worker (on the group, where it shares a run)."""
    arrives_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Weather:
    """What happens to machines; every time is drawn from an exponential distribution."""

    failure_every_s: float = float("inf")
    """Mean time between failures of one node."""
    repair_s: float = 600.0
    """Until a failed node is back."""
    preemption_every_s: float = float("inf")
    """Mean time between preemptions of one node whose label says spot."""
    replacement_s: float = 300.0
    """Until a preempted node is replaced."""
    notice_s: float = 30.0
    """Between the notice of a preemption and the end of the node: time for a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What the fleet is configured with."""

    startup_s: float = 12.0
    """From the order of a worker to its first pack."""
    checkpoint_every_s: float = 60.0
    detect_s: float = 10.0
    """From the loss of a node to the return of its packs."""
    patience_s: float = float("inf")
    max_tries: int = 3
    helps: bool = True
    """Whether idle slots join missions with long queues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a simulated launch."""

    makespan_s: float
    lower_bound_s: float
    waits_s: Mapping[str, float]
    """Mission -> seconds from the moment when it could have started to its start."""
    ends_s: Mapping[str, float]
    finished_packs: int
    failed_packs: int
    retries: int
    preemptions: int
    node_failures: int
    lost_work_s: float
    """Worker seconds that were done twice."""
    decisions: int
    """Times that the admission was asked."""

    @property
    def ratio(self) -> float:
        """Makespan over the lower bound: 1 is the best that any order could reach."""
        return self.makespan_s / self.lower_bound_s


def lower_bound(missions: Sequence[SimMission], nodes: Sequence[Node], startup_s: float) -> float:
    """No schedule is shorter: total work over capacity, and the longest chain of dependencies.

    Custom resources and labels are not looked at, so the bound is the lower for them.
    """
    by_name = {mission.job.name: mission for mission in missions}
    ends: dict[str, float] = {}

    def end(name: str) -> float:
        if name not in ends:
            mission = by_name[name]
            before = [end(other) for other in mission.job.depends_on if other in by_name]
            start = max([mission.arrives_s, *before])
            longest = sum(mission.pack_s) if mission.job.shared else max(mission.pack_s)
            ends[name] = start + startup_s + longest
        return ends[name]

    chain = max(end(mission.job.name) for mission in missions)
    bounds = [chain]
    for amount in ("cpus", "gpus", "memory_mib"):
        capacity = sum(getattr(node, amount) for node in nodes)
        work = sum(
            sum(mission.pack_s)
            * getattr(mission.job.request, amount)
            * (mission.job.workers if mission.job.shared else 1)
            for mission in missions
        )
        if work:
            bounds.append(work / capacity if capacity else float("inf"))
    return max(bounds)
