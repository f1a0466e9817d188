"""What the trials of a sweep ask of the cluster, and that they can never starve one another. Pure.

A trial that trains in its own process holds what one worker of the mission asks for. A trial that
starts a trainer of its own (`ddp`, `fsdp`) holds nothing that the trainer may ask for: were it to
hold a CPU, as Tune gives it by default, or the smallest part of one, a group that needs every CPU
would wait for ever. Its number at once is bounded instead by how many worker groups have room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet.policies import Job, Node, Request, place
from missions.spec import MissionSpec

NESTED = Request(cpus=0, custom={"node:__internal_head__": 0.001})
"""Of a trial whose trainer does the work. Ray wants something; this mark is on every head, and
nobody else asks for it."""


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
    return TrialResources(own=NESTED, group=job, at_once=max(1, fitting))


def misfit(mission: str, asked: TrialResources, nodes: Sequence[Node]) -> str:
    """Why not even one trial finds a place on idle nodes; empty where it does."""
    if asked.group is not None:
        if _how_many(asked.group, nodes, 1):
            return ""
        return (
            f"Mission {mission}: a trial of its sweep starts {asked.group.workers} workers of "
            f"{asked.group.request} each; the nodes do not hold them."
        )
    if _how_many(Job(name=mission, request=asked.own), nodes, 1):
        return ""
    return f"Mission {mission}: a trial of its sweep asks for {asked.own}; no node has that much."


def _how_many(job: Job, nodes: Sequence[Node], most: int) -> int:
    """Worker groups like this one that idle nodes hold side by side, up to `most`."""
    count = 0
    while count < most and place([job] * (count + 1), nodes) is not None:
        count += 1
    return count
