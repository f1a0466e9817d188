"""Machines, what workers ask of them, and what is left when they are placed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SLACK = 1e-6
_SCALE = 10_000
"""Ray counts resources in ten-thousandths."""
_UNTOLD = frozenset({"ray.io/node-id"})
"""Labels that say nothing beyond the node's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What one worker asks for."""

    cpus: float
    gpus: float = 0.0
    """Whole, or 1/k of one."""
    memory_mib: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """Label selectors: `v`, `!v`, `in(v, w)`, `!in(v, w)`."""

    def as_ray(self) -> dict[str, float]:
        """Amounts under Ray's names. A share is rounded down: 1/6 taken six times must fit."""
        amounts = {"CPU": self.cpus, "memory": float(int(self.memory_mib * 2**20))}
        if self.gpus:
            amounts["GPU"] = math.floor(self.gpus * _SCALE + _SLACK) / _SCALE
        return {name: amount for name, amount in amounts.items() if amount} | dict(self.custom)

    def ray_labels(self) -> dict[str, str]:
        """Selectors as Ray reads them: in `in(a, b)` it takes the space for a part of the word."""
        return {key: selector.replace(" ", "") for key, selector in self.labels.items()}

    def __str__(self) -> str:
        return _amount(self.cpus, self.gpus, self.memory_mib, self.custom, self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What one machine has, or has left."""

    name: str
    cpus: float
    gpus: float = 0.0
    memory_mib: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    """What is free of each GPU that is in part taken; counted in `gpus`."""

    @property
    def whole_gpus(self) -> int:
        """GPUs that nobody uses."""
        return round(self.gpus - sum(self.shares))

    def fits(self, request: Request) -> bool:
        """Whether one worker of this request has room here."""
        return (
            request.cpus <= self.cpus + _SLACK
            and request.memory_mib <= self.memory_mib + _SLACK
            and self._lends(request.gpus)
            and all(
                amount <= self.custom.get(name, 0.0) + _SLACK
                for name, amount in request.custom.items()
            )
            and matches(request.labels, self.labels)
        )

    def without(self, request: Request) -> Node:
        """The node with the request's share taken."""
        gpus, shares = self.gpus, self.shares
        if 0 < request.gpus < 1:
            # The fullest GPU that still has room: whole ones stay whole for whom needs them.
            usable = [share for share in shares if share + _SLACK >= request.gpus]
            cut = min(usable, default=1.0)
            kept = list(shares)
            if usable:
                kept.remove(cut)
            left = cut - request.gpus
            shares = (*kept, left) if left > _SLACK else tuple(kept)
            gpus = self.whole_gpus - (0 if usable else 1) + sum(shares)
        elif request.gpus:
            gpus = self.gpus - request.gpus
        custom = self.custom
        if request.custom:
            custom = {
                name: amount - request.custom.get(name, 0.0) for name, amount in custom.items()
            }
        return Node(
            name=self.name,
            cpus=self.cpus - request.cpus,
            gpus=gpus,
            memory_mib=self.memory_mib - request.memory_mib,
            custom=custom,
            labels=self.labels,
            shares=shares,
        )

    def _lends(self, gpus: float) -> bool:
        if not gpus:
            return True
        if gpus < 1 and any(share + _SLACK >= gpus for share in self.shares):
            return True
        return self.whole_gpus + _SLACK >= max(1.0, gpus)

    def __str__(self) -> str:
        told = {key: value for key, value in self.labels.items() if key not in _UNTOLD}
        custom = {name: amount for name, amount in self.custom.items() if ":" not in name}
        return _amount(self.cpus, self.gpus, self.memory_mib, custom, told)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A mission's worker group as the admission sees it."""

    name: str
    request: Request
    """Of one worker."""
    workers: int = 1
    depends_on: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    """Names of the nodes on which its workers were seen; the others are still to come up."""
    shared: bool = False
    """All workers train one run together (ddp, fsdp): the group cannot be helped by more."""


def matches(selectors: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels satisfy every selector, as Ray reads them."""
    return all(_satisfies(selector, labels.get(key)) for key, selector in selectors.items())


def _satisfies(selector: str, label: str | None) -> bool:
    wanted = selector.removeprefix("!")
    if wanted.startswith("in(") and wanted.endswith(")"):
        found = label in {value.strip() for value in wanted[3:-1].split(",")}
    else:
        found = label == wanted
    return found != selector.startswith("!")


def assign(job: Job, nodes: Sequence[Node]) -> tuple[int, ...] | None:
    """Positions of the nodes that take the job's workers that are not up yet, or None.

    Best fit: a node without GPUs before one with them for a job that needs none, then the node
    with the least GPU and CPU left, so that large requests find whole machines.
    """
    missing = job.workers - len(job.at)
    if missing == 1:
        room = (i for i, node in enumerate(nodes) if node.fits(job.request))
        at = min(room, key=lambda i: (nodes[i].gpus, nodes[i].cpus, i), default=None)
        return None if at is None else (at,)
    chosen: list[int] = []
    order = sorted(
        (i for i, node in enumerate(nodes) if node.fits(job.request)),
        key=lambda i: (nodes[i].gpus, nodes[i].cpus, i),
    )
    for at in order:
        node = nodes[at]
        while len(chosen) < missing and node.fits(job.request):
            node = node.without(job.request)
            chosen.append(at)
        if len(chosen) == missing:
            break
    return tuple(chosen) if len(chosen) == missing else None


def take(job: Job, at: Sequence[int], nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes after workers of the job were placed at these positions."""
    left = list(nodes)
    for position in at:
        left[position] = left[position].without(job.request)
    return tuple(left)


def place(jobs: Sequence[Job], nodes: Sequence[Node]) -> tuple[Node, ...] | None:
    """What is left of the nodes after all workers are placed, or None."""
    free, left_over = occupy(jobs, nodes)
    return None if left_over else free


def occupy(jobs: Sequence[Job], nodes: Sequence[Node]) -> tuple[tuple[Node, ...], tuple[Job, ...]]:
    """(What is left of the nodes, jobs for which there was no room), placed one after the other.

    Workers that were seen somewhere count where they are; a node that is gone frees nothing.
    """
    free = list(nodes)
    positions = {node.name: i for i, node in enumerate(nodes)}
    left_over = []
    for job in jobs:
        seen = [positions[name] for name in job.at if name in positions]
        for position in seen:
            free[position] = free[position].without(job.request)
        if len(job.at) >= job.workers:
            continue
        at = assign(job, free)
        if at is None:
            left_over.append(job)
            continue
        for position in at:
            free[position] = free[position].without(job.request)
    return tuple(free), tuple(left_over)


def _amount(
    cpus: float,
    gpus: float,
    memory_mib: float,
    custom: Mapping[str, float],
    labels: Mapping[str, str],
) -> str:
    parts = [f"{cpus:g} CPU", f"{gpus:.4g} GPU", f"{memory_mib:,.0f} MiB"]
    parts += [f"{amount:g} {name}" for name, amount in sorted(custom.items())]
    parts += [f"label {key}={value}" for key, value in sorted(labels.items())]
    return ", ".join(parts)
