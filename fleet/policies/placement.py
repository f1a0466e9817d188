"""Who starts when: preflight, admission with a reservation for whom waits long, helpers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet.policies.nodes import Job, Node, Request, assign, matches, occupy, place, take


def preflight(jobs: Sequence[Job], nodes: Sequence[Node]) -> list[str]:
    """One line with numbers for each job that these nodes could never hold, even when idle."""
    problems = []
    for job in jobs:
        if not nodes:
            problems.append(f"Mission {job.name}: the cluster has no node.")
            continue
        if not any(node.fits(job.request) for node in nodes):
            problems.append(_too_large(job, nodes))
        elif place([job], nodes) is None:
            holds = _most_workers(job, nodes)
            problems.append(
                f"Mission {job.name} asks for {job.workers} workers of {job.request}; "
                f"{len(nodes)} node(s) together hold {holds} of them when idle."
            )
    return problems


def _too_large(job: Job, nodes: Sequence[Node]) -> str:
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory_mib))
    text = f"Mission {job.name} asks for {job.request} a worker; "
    wanted = job.request.labels
    if wanted and not any(matches(wanted, node.labels) for node in nodes):
        found = sorted(
            {f"{key}={node.labels.get(key, '(absent)')}" for node in nodes for key in wanted}
        )
        return f"{text}no node has these labels; the cluster has {', '.join(found)}."
    if wanted:
        matching = [node for node in nodes if matches(wanted, node.labels)]
        largest = max(matching, key=lambda node: (node.gpus, node.cpus, node.memory_mib))
        return f"{text}the largest node with these labels ({largest.name}) has {largest}."
    missing = [
        name
        for name, amount in job.request.custom.items()
        if not any(node.custom.get(name, 0.0) >= amount for node in nodes)
    ]
    if missing:
        most = ", ".join(
            f"{max(node.custom.get(name, 0.0) for node in nodes):g} {name}" for name in missing
        )
        return f"{text}no node has more than {most}."
    return f"{text}the largest node ({largest.name}) has {largest}."


def _most_workers(job: Job, nodes: Sequence[Node]) -> int:
    count, free = 0, tuple(nodes)
    one = Job(name=job.name, request=job.request)
    while (at := assign(one, free)) is not None:
        free = take(one, at, free)
        count += 1
    return count


def startable(
    waiting: Sequence[Job],
    running: Sequence[Job],
    *,
    finished: frozenset[str] = frozenset(),
    launched: frozenset[str] = frozenset(),
) -> tuple[Job, ...]:
    """The waiting jobs that wait for room only; a mission that is not launched holds up nobody.

    Args:
        launched: missions of this launch, so that one whose workers have left and whose verdict
            is not there yet holds up its dependants.
    """
    names = {job.name for job in (*waiting, *running)} | launched
    return tuple(
        job
        for job in waiting
        if not any(name in names and name not in finished for name in job.depends_on)
    )


def urgent_first(
    durations: Mapping[str, float], depends_on: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Names in the order in which they should start: the longest chain that hangs on each first.

    A chain is a job's own duration and the longest of the chains that wait for it, so a short job
    before a long one goes ahead of a middling one. Ties by name. Dependencies come before their
    dependants.

    Raises:
        ValueError: dependencies run in a circle; names who is in it.
    """
    after: dict[str, list[str]] = {name: [] for name in durations}
    before = {
        name: [other for other in depends_on.get(name, ()) if other in durations]
        for name in durations
    }
    for name, others in before.items():
        for other in others:
            after[other].append(name)
    left = {name: len(after[name]) for name in durations}
    chain: dict[str, float] = {}
    ready = [name for name, count in left.items() if not count]
    while ready:
        name = ready.pop()
        chain[name] = durations[name] + max((chain[later] for later in after[name]), default=0.0)
        for other in before[name]:
            left[other] -= 1
            if not left[other]:
                ready.append(other)
    if len(chain) < len(durations):
        raise ValueError(", ".join(sorted(set(durations) - set(chain))))
    place_of: dict[str, int] = {}
    waiting = sorted(durations, key=lambda name: (-chain[name], name))
    # A dependency's chain is never shorter than its dependant's; only zero durations tie.
    while waiting:
        name = next(name for name in waiting if all(other in place_of for other in before[name]))
        place_of[name] = len(place_of)
        waiting.remove(name)
    return tuple(place_of)


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """What to start now."""

    start: tuple[str, ...]
    """Jobs that fit, in the order in which they start."""
    on_deck: tuple[str, ...] = ()
    """Jobs started ahead of their resources."""
    reserved_for: str = ""
    """The job for which nodes are kept free, if one has waited too long."""
    at: tuple[tuple[int, ...], ...] = ()
    """Positions of the nodes that `start` was given, job by job."""
    spare: tuple[Node, ...] = ()
    """What is left for helpers: room that no waiting job can use now, reserved nodes left out."""


def admit(
    waiting: Sequence[Job],
    running: Sequence[Job],
    nodes: Sequence[Node],
    *,
    finished: frozenset[str] = frozenset(),
    launched: frozenset[str] = frozenset(),
    on_deck: int = 0,
    waited_s: Mapping[str, float] | None = None,
    patience_s: float = float("inf"),
) -> tuple[str, ...]:
    """Names of the waiting jobs to start now; see `admission`."""
    decision = admission(
        waiting,
        running,
        nodes,
        finished=finished,
        launched=launched,
        on_deck=on_deck,
        waited_s=waited_s,
        patience_s=patience_s,
    )
    return (*decision.start, *decision.on_deck)


def admission(
    waiting: Sequence[Job],
    running: Sequence[Job],
    nodes: Sequence[Node],
    *,
    finished: frozenset[str] = frozenset(),
    launched: frozenset[str] = frozenset(),
    on_deck: int = 0,
    waited_s: Mapping[str, float] | None = None,
    patience_s: float = float("inf"),
) -> Admission:
    """What to start now.

    Jobs start in the order of `waiting`, each as soon as its workers fit beside the running
    ones; a job that does not fit does not hold up a smaller one behind it, until it has waited
    for `patience_s`: then the nodes on which it will soonest have room are kept for it, and
    others start only where they do not delay it. So every wait is bounded. `on_deck` more jobs
    may be started ahead of their resources: their controller comes up while the others work, and
    their workers wait for the first free slot.

    Args:
        running: jobs already started, oldest first, those on deck included.
        finished: missions that `depends_on` may name as ended.
        waited_s: seconds for which each job could have started had there been room.
    """
    free, without_room = occupy(running, nodes)
    ahead = len(without_room)
    later: tuple[Node, ...] | None = None
    reserved_for = ""
    start: list[str] = []
    at: list[tuple[int, ...]] = []
    deck: list[str] = []
    hopeless: list[tuple[Request, int]] = []
    for job in startable(waiting, running, finished=finished, launched=launched):
        seats = None
        if ahead == 0 and not _known(hopeless, job):
            seats = assign(job, free) if later is None else _assign_beside(job, free, later)
        if seats is not None:
            free = take(job, seats, free)
            later = None if later is None else take(job, seats, later)
            start.append(job.name)
            at.append(seats)
            continue
        hopeless.append((job.request, job.workers))
        if later is None and waited_s and waited_s.get(job.name, 0.0) >= patience_s:
            later = _with_room_for(job, running, free)
            reserved_for = job.name if later is not None else ""
            hopeless.clear()
        elif ahead < on_deck:
            ahead += 1
            deck.append(job.name)
    spare = free
    if later is not None:
        spare = tuple(
            now if then.cpus >= now.cpus and then.gpus >= now.gpus else _full(now)
            for now, then in zip(free, later, strict=True)
        )
    return Admission(
        start=tuple(start),
        on_deck=tuple(deck),
        reserved_for=reserved_for,
        at=tuple(at),
        spare=() if ahead else spare,
    )


def _known(hopeless: Sequence[tuple[Request, int]], job: Job) -> bool:
    """Whether a job of the same shape has failed to fit already; room only shrinks."""
    return any(request == job.request and workers <= job.workers for request, workers in hopeless)


def _with_room_for(
    job: Job, running: Sequence[Job], free: tuple[Node, ...]
) -> tuple[Node, ...] | None:
    """The nodes as they will be when the job has its place: running jobs end oldest first."""
    positions = {node.name: i for i, node in enumerate(free)}
    state = list(free)
    for older in running:
        for name in older.at:
            if name in positions:
                state[positions[name]] = _with(state[positions[name]], older.request)
        at = assign(job, state)
        if at is not None:
            return take(job, at, state)
    return None


def _with(node: Node, request: Request) -> Node:
    """The node with a worker's share given back."""
    shares, gpus = list(node.shares), node.gpus + request.gpus
    if 0 < request.gpus < 1 and shares:
        # Which GPU it was is not recorded: the fullest one that becomes whole no sooner than it is.
        fullest = min(shares)
        shares.remove(fullest)
        if fullest + request.gpus < 1 - 1e-6:
            shares.append(fullest + request.gpus)
    custom = {name: amount + request.custom.get(name, 0.0) for name, amount in node.custom.items()}
    return Node(
        name=node.name,
        cpus=node.cpus + request.cpus,
        gpus=gpus,
        memory_mib=node.memory_mib + request.memory_mib,
        custom=custom,
        labels=node.labels,
        shares=tuple(shares),
    )


def _assign_beside(job: Job, free: Sequence[Node], later: Sequence[Node]) -> tuple[int, ...] | None:
    """Positions that have room now and still have it when the reserved job has its place."""
    both = [
        now if now.fits(job.request) and then.fits(job.request) else _full(now)
        for now, then in zip(free, later, strict=True)
    ]
    at = assign(job, both)
    if at is None:
        return None
    left = list(later)
    for position in at:
        if not left[position].fits(job.request):
            return None
        left[position] = left[position].without(job.request)
    return at


def _full(node: Node) -> Node:
    return Node(name=node.name, cpus=0.0, labels=node.labels)


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
    hopeless: list[tuple[Request, int]] = []
    possible: list[tuple[Request, int]] = []
    useful = []
    for load in running:
        if (
            load.job.shared
            or load.open_packs == 0
            or load.open_packs * load.pack_s <= 2 * startup_s
            or load.helpers > load.open_packs
            or _known(hopeless, load.job)
        ):
            continue
        shape = (load.job.request, load.job.workers)
        if shape in possible or assign(load.job, free) is not None:
            if shape not in possible:
                possible.append(shape)
            useful.append(load)
        else:
            hopeless.append(shape)
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
