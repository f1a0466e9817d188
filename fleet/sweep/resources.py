"""What the trials of a sweep ask of the cluster, and that they can never starve one another. Pure.

A trial that trains in its own process holds what one worker of the mission asks for. A trial that
starts a trainer of its own (`ddp`, `fsdp`) holds next to nothing: were it to hold a CPU, as Tune
gives it by default, two such trials could take all CPUs and wait for ever for the ones that their
trainers need. Its number at once is bounded instead by how many worker groups have room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet.policies import Job, Node, Request, place
from missions.spec import MissionSpec

NESTED_CPUS = 0.001
"""CPU of a trial whose trainer does the work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResources:
    """What trials ask for."""

    own: Request
    """Of the trial's own process."""
    group: Job | None
    """The worker group that every trial starts; None where it trains by itself."""
    at_once: int

    @property
    def job(self) -> Job:
        """The whole sweep as admission sees it."""
        if self.group is None:
            return Job(name="", request=self.own, workers=self.at_once)
        workers = self.group.workers * self.at_once
        return Job(name="", request=self.group.request, workers=workers, shared=True)


def trial_resources(spec: MissionSpec, job: Job, nodes: Sequence[Node]) -> TrialResources:
    """What the trials of a mission's sweep ask for on these nodes.

    Args:
        job: the mission's worker group.
    """
    assert spec.sweep is not None, "only a mission with a sweep has trials"
    most = min(spec.sweep.concurrency, spec.sweep.trials * len(spec.sweep.arms))
    if spec.resources.strategy == "packed":
        own = replace(job, workers=1)
        fitting = _how_many(own, nodes, most)
        return TrialResources(own=job.request, group=None, at_once=max(1, fitting))
    fitting = _how_many(job, nodes, most)
    own_request = Request(cpus=NESTED_CPUS)
    return TrialResources(own=own_request, group=job, at_once=max(1, fitting))


def starvation(mission: str, asked: TrialResources, nodes: Sequence[Node]) -> str:
    """Why trials could wait for one another for ever; empty where they cannot."""
    if asked.group is None:
        if _how_many(Job(name=mission, request=asked.own), nodes, 1):
            return ""
        return (
            f"Mission {mission}: a trial of its sweep asks for {asked.own}; no node has that much."
        )
    if asked.own.cpus > NESTED_CPUS or asked.own.gpus:
        return (
            f"Mission {mission}: trials of its sweep start trainers and hold {asked.own} beside "
            f"them; they may hold {NESTED_CPUS} CPU at most, or they take what their trainers wait "
            "for."
        )
    fitting = _how_many(asked.group, nodes, asked.at_once)
    if fitting < asked.at_once:
        return (
            f"Mission {mission}: {asked.at_once} trials of its sweep at once start "
            f"{asked.group.workers} workers of {asked.group.request} each; the nodes hold "
            f"{fitting} such groups."
        )
    return ""


def _how_many(job: Job, nodes: Sequence[Node], most: int) -> int:
    """Worker groups like this one that idle nodes hold side by side, up to `most`."""
    count = 0
    while count < most and place([job] * (count + 1), nodes) is not None:
        count += 1
    return count
