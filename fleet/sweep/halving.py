"""Successive halving of one arm: which trial comes next, which go on, which settings are chosen.

This is ASHA with its rungs decided synchronously. The asynchronous rule stops a trial by what
happens to be finished when it reports, so the order of arrival decides and arms end with unequal
budgets. Here an arm waits until all its trials of a rung are there and sends the best
1 / reduction of them on: the same trials, the same choice and the same budget for every arm,
however many run at once. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Protocol

from fleet.errors import SweepError
from fleet.sweep.records import ArmChoice, SweepOutcome, Trial, TrialRow
from missions.spec import MissionSpec

PARITY_FIGURES: Mapping[str, str] = {
    "trainable": "trainable_params",
    "flops": "forward_flops",
    "bytes": "persistent_bytes",
}
"""What a parity check is called in a mission file -> figure of ArmCost."""

SIZE_TOLERANCE = 1e-6
"""Relative difference in size that is rounding."""
WAIT: Literal["wait"] = "wait"
"""Results must come first."""


class Proposer(Protocol):
    """Where settings come from: Optuna, or a list in a test."""

    def propose(self, number: int) -> Mapping[str, Any]: ...

    def learn(self, number: int, score: float | None) -> None:
        """The score of a proposal at the first rung; None: it failed or is refused."""


def rung_sizes(trials: int, rungs: int, reduction: int) -> tuple[int, ...]:
    """Trials of one arm at each rung."""
    sizes = [trials]
    for _ in range(rungs - 1):
        sizes.append(max(1, sizes[-1] // reduction))
    return tuple(sizes)


class ArmSearch:
    """The search of one arm. Proposals are made one after the other, since each learns from all
    before it; what goes on to a higher rung may run at once.
    """

    def __init__(
        self,
        arm: str,
        *,
        sizes: tuple[int, ...],
        mode: Literal["max", "min"],
        parity: tuple[str, ...],
        proposer: Proposer,
    ) -> None:
        """`parity`: figures of the cost that must stay what the mission file's settings have."""
        self._arm = arm
        self._sizes = sizes
        self._sign = 1.0 if mode == "max" else -1.0
        self._parity = parity
        self._proposer = proposer
        self._settings: list[Mapping[str, Any]] = []
        self._rows: dict[tuple[int, int], TrialRow] = {}
        self._asked: set[tuple[int, int]] = set()

    @property
    def num_asked(self) -> int:
        """Trials handed out."""
        return len(self._asked)

    @property
    def rows(self) -> tuple[TrialRow, ...]:
        """Results in order of rung and number."""
        return tuple(self._rows[at] for at in sorted(self._rows))

    def next(self) -> Trial | Literal["wait"] | None:
        """The next trial to run, WAIT, or None where the search is over."""
        for rung, size in enumerate(self._sizes):
            numbers = range(size) if rung == 0 else self._going_on(rung)
            open_ones = [n for n in numbers if (rung, n) not in self._rows]
            if not open_ones:
                continue
            if rung == 0 and (rung, open_ones[0]) in self._asked:
                return WAIT
            for number in open_ones:
                if (rung, number) not in self._asked:
                    return self._trial(rung, number)
            return WAIT
        return None

    def start(self, trial: Trial) -> None:
        """The trial was handed out."""
        self._asked.add((trial.rung, trial.number))

    def tell(self, row: TrialRow) -> None:
        """What came of a trial. The same one told twice counts once."""
        at = (row.rung, row.number)
        if at in self._rows:
            return
        self._rows[at] = row
        if row.rung == 0:
            score = row.score if self.refusal(row) == "" else None
            self._proposer.learn(row.number, score)

    def refusal(self, row: TrialRow) -> str:
        """Why a trial cannot be chosen; empty where it can."""
        if row.score is None:
            return row.error
        own = self._rows.get((0, 0))
        if own is None or own.score is None:
            return "the mission file's own settings failed: there is no size to compare with"
        for figure in self._parity:
            now, before = row.cost[figure], own.cost[figure]
            if abs(now - before) > SIZE_TOLERANCE * max(abs(before), 1.0):
                return (
                    f"{figure} {now:,.0f} instead of {before:,.0f}: the arms were matched in size"
                )
        return ""

    def choice(self) -> ArmChoice | None:
        """The best of the last rung; None where no trial of it can be chosen."""
        rung = len(self._sizes) - 1
        ranked = self._ranked(rung)
        if not ranked:
            return None
        best = self._rows[rung, ranked[0]]
        own = max(
            (row for row in self._rows.values() if row.number == 0 and row.score is not None),
            key=lambda row: row.rung,
        )
        assert best.score is not None, "a failed trial is never ranked"
        assert own.score is not None, "without the file's own score nothing is ranked"
        return ArmChoice(
            arm=self._arm,
            number=best.number,
            settings=best.settings,
            score=best.score,
            file_score=own.score,
            trials=len(self._settings),
            evaluations=len(self._rows),
            refused=sum(self.refusal(row) != "" for row in self._rows.values()),
            cpu_s=sum(row.cpu_s for row in self._rows.values()),
        )

    def _trial(self, rung: int, number: int) -> Trial:
        while len(self._settings) <= number:
            self._settings.append(self._proposer.propose(len(self._settings)))
        return Trial(arm=self._arm, number=number, rung=rung, settings=self._settings[number])

    def _going_on(self, rung: int) -> list[int]:
        return sorted(self._ranked(rung - 1)[: self._sizes[rung]])

    def _ranked(self, rung: int) -> list[int]:
        """Trials of a rung that can be chosen, best first; equal ones in order of number."""
        scored = [
            (-self._sign * row.score, number)
            for (at, number), row in self._rows.items()
            if at == rung and row.score is not None and not self.refusal(row)
        ]
        return [number for _, number in sorted(scored)]


class MissionSearch:
    """The searches of a mission's arms, taken in turn."""

    def __init__(self, spec: MissionSpec, proposer_of: Callable[[str], Proposer]) -> None:
        assert spec.sweep is not None, "only a mission with a sweep is searched"
        sweep = spec.sweep
        self._mission = spec.id
        self._follow = sweep.follow
        self._left_out: frozenset[str] = frozenset()
        self.sizes = rung_sizes(sweep.trials, len(sweep.rungs), sweep.reduction)
        self._arms = {
            arm: ArmSearch(
                arm,
                sizes=self.sizes,
                mode=sweep.mode,
                parity=tuple(PARITY_FIGURES[check] for check in spec.parity.check),
                proposer=proposer_of(arm),
            )
            for arm in sweep.arms
        }

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that are swept."""
        return tuple(self._arms)

    def leave_out(self, cancelled: Collection[str]) -> None:
        """These arms are searched no further and nothing is chosen for them, but for one whose
        settings an arm takes that nobody cancelled. Each call says all of them."""
        followed = {
            leader
            for arm, leaders in self._follow.items()
            if arm not in cancelled
            for leader in leaders
        }
        self._left_out = frozenset(cancelled) - followed

    def leaves_out(self, arm: str) -> bool:
        """Whether the search goes on without this arm."""
        return arm in self._left_out

    def next(self) -> Trial | Literal["wait"] | None:
        """The next trial, of the arm that is furthest behind; WAIT, or None at the end."""
        waiting = False
        searched = [search for arm, search in self._arms.items() if not self.leaves_out(arm)]
        for search in sorted(searched, key=lambda search: search.num_asked):
            found = search.next()
            if found == WAIT:
                waiting = True
            elif found is not None:
                return found
        return WAIT if waiting else None

    def start(self, trial: Trial) -> None:
        """The trial was handed out."""
        self._arms[trial.arm].start(trial)

    def tell(self, row: TrialRow) -> None:
        """What came of a trial."""
        self._arms[row.arm].tell(row)

    def outcome(self) -> SweepOutcome:
        """The choice of every arm that is not left out, when the search is over.

        Raises:
            SweepError: an arm has no trial that can be chosen.
        """
        rows = [row for search in self._arms.values() for row in search.rows]
        refusals = {
            row.key: reason
            for search in self._arms.values()
            for row in search.rows
            if (reason := search.refusal(row))
        }
        choices: list[ArmChoice] = []
        left_out = self._left_out  # a user may cancel meanwhile, from another thread
        for arm, search in self._arms.items():
            if arm in left_out:
                continue
            choice = search.choice()
            if choice is None:
                reasons = [refusals[row.key] for row in search.rows if row.key in refusals]
                raise SweepError(
                    f"Mission {self._mission}: no trial of arm {arm!r} can be chosen, the first "
                    f"because: {reasons[0] if reasons else 'none was run'}"
                )
            choices.append(choice)
        return SweepOutcome(
            mission=self._mission, choices=tuple(choices), rows=tuple(rows), refusals=refusals
        )
