"""Decisions of the fleet as pure functions: state and observation in, decision out.

Nothing here reads a clock, a file or Ray; the coordinator observes, asks and acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


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


class Cause(StrEnum):
    """Why a run did not end in DONE."""

    ERROR = "error"
    NONFINITE = "nonfinite"
    WORKER_DIED = "worker_died"
    PREEMPTED = "preempted"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryDecision:
    """Whether a pack goes back to the queue."""

    again: bool
    counts: bool
    """Whether the attempt is charged to the retry budget."""
    reason: str


def retry(cause: Cause, tries: int, *, limit: int) -> RetryDecision:
    """What to do after attempt number `tries` ended by `cause`.

    An exception from the mission's own code is deterministic here (fixed seeds, one thread), so
    trying again would only repeat it; a dead worker is tried again within the limit; preemption
    never uses up the budget.
    """
    if cause is Cause.PREEMPTED:
        return RetryDecision(again=True, counts=False, reason="preempted, not counted")
    if cause is Cause.WORKER_DIED:
        if tries < limit:
            return RetryDecision(again=True, counts=True, reason=f"attempt {tries} of {limit} died")
        return RetryDecision(again=False, counts=True, reason=f"the worker died {tries} times")
    if cause is Cause.STOPPED:
        return RetryDecision(again=False, counts=False, reason="stopped by the user")
    return RetryDecision(again=False, counts=True, reason="would fail the same way again")


class LeaseVerdict(StrEnum):
    """What the silence of a lease's holder means."""

    ALIVE = "alive"
    STALE = "stale"
    LOST = "lost"


def judge_lease(silent_s: float, *, stale_after_s: float) -> LeaseVerdict:
    """STALE after T without a heartbeat, LOST (to be replaced) after 2T."""
    if silent_s < stale_after_s:
        return LeaseVerdict.ALIVE
    return LeaseVerdict.STALE if silent_s < 2 * stale_after_s else LeaseVerdict.LOST


def complete_seeds(planned: Sequence[int], open_runs: Mapping[int, int]) -> int:
    """How many of the first planned seeds have all their runs DONE.

    Args:
        open_runs: seed -> runs that are not DONE.
    """
    count = 0
    while count < len(planned) and open_runs.get(planned[count], 0) == 0:
        count += 1
    return count


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A mission between two seeds, as the rules of its own file see it."""

    complete: int
    """The first seeds of the plan that are complete."""
    looked: int
    """Seeds of the newest INTERIM view that was asked for."""
    planned: int
    has_rules: bool
    """Whether the mission file asks for looks or a futility stop."""
    ended: bool = False
    """Whether it has been ended early."""


def next_view(standing: Standing) -> int | None:
    """Complete seeds for which an INTERIM view is due, or None.

    Where the mission file has rules, every number of seeds is looked at in turn, so that what is
    decided depends on the scores and not on which view happened to be asked for. Elsewhere the
    newest is enough. At the planned number there is nothing interim left.
    """
    last = min(standing.complete, standing.planned - 1)
    if standing.ended or last <= standing.looked:
        return None
    return standing.looked + 1 if standing.has_rules else last


def early_end(
    rule_says_stop: bool, *, done: int, planned: int, withheld: bool, failed: int
) -> bool:
    """Whether a mission ends now, before its planned seeds, because its own file says so.

    Never where there is no verdict to come to (a smoke run), and not where a run has failed: that
    mission is INVALID, and its remaining seeds are what a later repair needs.
    """
    return rule_says_stop and done < planned and not withheld and not failed


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
