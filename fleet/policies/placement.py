"""Who gets which machine: placement, admission, preflight, helpers of long queues. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What one worker asks for."""

    cpus: float
    gpus: float = 0.0
    memory_mib: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What one machine has."""

    name: str
    cpus: float
    gpus: float = 0.0
    memory_mib: float = 0.0

    def fits(self, request: Request) -> bool:
        """Whether one worker of this request has room here."""
        return (
            request.cpus <= self.cpus + _SLACK
            and request.gpus <= self.gpus + _SLACK
            and request.memory_mib <= self.memory_mib + _SLACK
        )

    def without(self, request: Request) -> Node:
        """The node with the request's share taken."""
        return Node(
            name=self.name,
            cpus=self.cpus - request.cpus,
            gpus=self.gpus - request.gpus,
            memory_mib=self.memory_mib - request.memory_mib,
        )


_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A mission's worker group as the admission sees it."""

    name: str
    request: Request
    """Of one worker."""
    workers: int = 1
    depends_on: tuple[str, ...] = ()


def place(jobs: Sequence[Job], nodes: Sequence[Node]) -> tuple[Node, ...] | None:
    """What is left of the nodes after first-fit placement of all workers, or None."""
    free = list(nodes)
    for job in jobs:
        for _ in range(job.workers):
            at = next((i for i, node in enumerate(free) if node.fits(job.request)), None)
            if at is None:
                return None
            free[at] = free[at].without(job.request)
    return tuple(free)


def preflight(jobs: Sequence[Job], nodes: Sequence[Node]) -> list[str]:
    """One line with numbers for each job that these nodes could never hold, even when idle."""
    problems = []
    for job in jobs:
        if not nodes:
            problems.append(f"Mission {job.name}: the cluster has no node.")
            continue
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory_mib))
        if not any(node.fits(job.request) for node in nodes):
            problems.append(
                f"Mission {job.name} asks for {_amount(job.request)} a worker; the largest node "
                f"({largest.name}) has {_amount(largest)}."
            )
        elif place([job], nodes) is None:
            problems.append(
                f"Mission {job.name} asks for {job.workers} workers of {_amount(job.request)}; "
                f"{len(nodes)} node(s) together do not hold them."
            )
    return problems


def admit(
    waiting: Sequence[Job],
    running: Sequence[Job],
    nodes: Sequence[Node],
    *,
    finished: frozenset[str] = frozenset(),
    on_deck: int = 0,
) -> tuple[str, ...]:
    """Names of the waiting jobs to start now.

    Jobs start in the order of `waiting`, each as soon as its workers fit beside the running
    ones; a job that does not fit does not hold up a smaller one behind it. `on_deck` more jobs
    may be started ahead of their resources: their controller comes up while the others work, and
    their workers wait for the first free slot.

    Args:
        running: jobs already started, those on deck included.
        finished: missions that `depends_on` may name as ended.
    """
    names = {job.name for job in (*waiting, *running)}
    free = list(nodes)
    ahead = 0
    for job in running:
        left = place([job], free)
        if left is None:
            ahead += 1
        else:
            free = list(left)
    chosen = []
    for job in waiting:
        if any(name in names and name not in finished for name in job.depends_on):
            continue
        left = place([job], free)
        if left is not None and ahead == 0:
            free = list(left)
            chosen.append(job.name)
        elif ahead < on_deck:
            ahead += 1
            chosen.append(job.name)
    return tuple(chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """A running mission as `reinforce` sees it."""

    job: Job
    open_packs: int
    """Packs that nobody has leased yet."""
    pack_s: float
    """Seconds that one pack takes (measured, or expected before the first is done)."""
    helpers: int
    """Worker groups that already work on it."""


def reinforce(
    running: Sequence[Load], free: Sequence[Node], *, startup_s: float, on_deck: int
) -> str | None:
    """The mission whose queue an idle slot should help to empty, or None.

    Only when nothing waits for admission (`on_deck` is 0), and only where the open packs take
    clearly longer than a new worker group needs to come up.
    """
    if on_deck:
        return None
    useful = [
        load
        for load in running
        if load.open_packs > 0
        and load.open_packs * load.pack_s > 2 * startup_s
        and load.helpers <= load.open_packs
        and place([load.job], free) is not None
    ]
    if not useful:
        return None
    best = max(useful, key=lambda load: load.open_packs * load.pack_s / load.helpers)
    return best.job.name


def schedule(durations: Mapping[str, float], slots: int) -> float:
    """Makespan of list scheduling in the given order over equal slots."""
    ends = [0.0] * max(1, slots)
    for duration in durations.values():
        at = min(range(len(ends)), key=ends.__getitem__)
        ends[at] += duration
    return max(ends)


def _amount(what: Request | Node) -> str:
    return f"{what.cpus:g} CPU, {what.gpus:g} GPU, {what.memory_mib:,.0f} MiB"
