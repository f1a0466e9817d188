"""What adapters do to each other's tasks when they act together. It knows no statistics: it takes
a score for each set of adapters and task, and lays out differences.

Legend: A tasks, each with an adapter of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bem.errors import InvalidInputError

Score = Callable[[tuple[str, ...], str], float]
"""The score of a task, higher is better, when these adapters act, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interference:
    """Scores of each task with its own adapter alone, in pairs, and in the full composition."""

    alone: Mapping[str, float]
    pairs: Mapping[tuple[str, str], float]
    """(task, other): the score of `task` with its own adapter and that of `other`."""
    together: Mapping[str, float]

    def matrix(self) -> list[list[float]]:
        """A x A: the relative change of the row's task when the column's adapter joins, 0 on the
        diagonal. -0.02 is a regression of 2 %."""
        tasks = tuple(self.alone)
        return [
            [0.0 if t == o else _change(self.alone[t], self.pairs[t, o]) for o in tasks]
            for t in tasks
        ]

    def worst_pair(self) -> tuple[str, str, float]:
        """(task, other, relative change) of the largest regression in pairs."""
        return min(
            ((t, o, _change(self.alone[t], score)) for (t, o), score in self.pairs.items()),
            key=lambda found: found[2],
        )

    def regressions(self) -> dict[str, float]:
        """The relative change of each task when all adapters act."""
        return {task: _change(self.alone[task], self.together[task]) for task in self.alone}


def interference(adapter_of_task: Mapping[str, str], score: Score) -> Interference:
    """Measure A tasks alone, in all ordered pairs, and together: A (A + 1) calls of `score`.

    With two tasks the pair is the full composition, so only 4 calls are made.
    """
    tasks: Sequence[str] = tuple(adapter_of_task)
    if len(tasks) < 2:
        raise InvalidInputError("Interference needs at least two tasks.")
    everyone = tuple(adapter_of_task.values())
    alone = {task: score((adapter_of_task[task],), task) for task in tasks}
    pairs = {
        (task, other): score((adapter_of_task[task], adapter_of_task[other]), task)
        for task in tasks
        for other in tasks
        if task != other
    }
    if len(tasks) == 2:
        together = {task: pairs[task, other] for task, other in pairs}
    else:
        together = {task: score(everyone, task) for task in tasks}
    return Interference(alone=alone, pairs=pairs, together=together)


def _change(before: float, after: float) -> float:
    if before == 0:
        return 0.0 if after == 0 else math.inf if after > 0 else -math.inf
    return (after - before) / abs(before)
