"""When a wait for resources is an error, and whom it names. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.policies.nodes import Node, Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """A worker group that was started and whose workers have not all come up."""

    mission: str
    request: Request
    workers: int
    """That are still missing."""
    waited_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Somebody who has resources of the cluster now."""

    who: str
    """A mission of this launch, or a placement group or actor of somebody else."""
    what: str
    """Amounts, in words."""
    node: str = ""


def overdue(waits: Sequence[Wait], *, limit_s: float) -> tuple[Wait, ...]:
    """The waits that are longer than a launch may wait in silence."""
    return tuple(wait for wait in waits if wait.waited_s >= limit_s)


def explain_wait(
    wait: Wait, holders: Sequence[Holder], free: Sequence[Node], *, limit_s: float
) -> str:
    """One line: what was asked for, how long, what is free, and who holds the rest."""
    held = "; ".join(
        f"{holder.who} holds {holder.what}{f' on {holder.node}' if holder.node else ''}"
        for holder in holders
    )
    room = "; ".join(f"{node.name}: {node}" for node in free) or "no node is up"
    return (
        f"Mission {wait.mission} waited {wait.waited_s:.0f} s (limit {limit_s:.0f} s) for "
        f"{wait.workers} worker(s) of {wait.request}. Held: {held or 'by nobody Ray knows of'}. "
        f"Free: {room}."
    )
