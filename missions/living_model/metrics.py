"""What mission B counts, from plain records of a stream: fixes, rollbacks, parts of the stream.

Pure functions over hits and canary runs; they know neither models nor score tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from missions.living_model.data import Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """When an injected failure was fixed."""

    prompts: int
    """Stream prompts from the injection to the fix, or the censoring time."""
    event: bool
    """True where it was fixed; False: not within the observed time."""


def time_to_fix(
    hits: Sequence[bool],
    affected: Sequence[int],
    start: int,
    *,
    window: int,
    threshold: float,
    censor: int,
) -> Fix:
    """Prompts from `start` until exact match on the behaviour holds over one window.

    Fixed at the first prompt of the behaviour after which its last `window` prompts, all of them
    after the injection, have a mean of at least `threshold`. Observation ends `censor` prompts
    after the injection.

    Args:
        hits: exact match of every prompt of the stream.
        affected: numbers of the prompts of the behaviour after its injection, ascending.
    """
    seen: list[bool] = []
    for at in affected:
        elapsed = at - start + 1
        if elapsed > censor:
            break
        seen.append(hits[at])
        if len(seen) >= window and sum(seen[-window:]) >= threshold * window - 1e-9:
            return Fix(prompts=elapsed, event=True)
    return Fix(prompts=censor, event=False)


def affected_prompts(stream: Sequence[Item], behaviour: str) -> list[int]:
    """Numbers of the prompts of a behaviour that come after its injection."""
    return [at for at, item in enumerate(stream) if item.part == behaviour and item.injected]


def group_of(item: Item) -> str:
    """The part of the score that a prompt belongs to: `known`, `novel` or `unchanged`."""
    return item.part.rpartition("_")[2] if item.injected else "unchanged"


def in_burst(at: int, poison: tuple[int, int], settle: int) -> bool:
    """Whether a canary run after `at` prompts answers to the poisoned burst."""
    return poison[0] < at <= poison[1] + settle
