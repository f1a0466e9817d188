"""What a mission does between two of its seeds: views that are due, an early end. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
