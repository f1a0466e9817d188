"""The lock on the test split: no scores of test before an arm's settings are frozen; reads counted.

Whoever chooses settings by looking at test scores gets a p-value that means nothing (best of 20
null configurations looks significant 21 % of the time on the data it was chosen on). So every
`Mission.evaluate(..., "test")` passes through the lock that the context lends, whoever calls it,
and the lock opens only for an arm whose hash was frozen beforehand and has not changed since.

`LocalLock` keeps its record in memory; the fleet's lock keeps it in the ledger's hash chain. The
lock guards scores. It cannot hide the test items themselves: they are made from a seed that
stands in the mission file. Knows neither models nor scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from missions.errors import LockedSplitError


class SplitLock(ABC):
    """Opens the test split for one evaluation of one run, or refuses."""

    @abstractmethod
    def open_test(self, *, mission: str, arm: str, seed: int, arm_hash: str) -> None:
        """Records one read of the test split.

        Args:
            arm_hash: hash of the arm's settings as the evaluation is about to use them.

        Raises:
            LockedSplitError: the arm was never frozen, or its settings are not the frozen ones.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRead:
    """One evaluation of one run on the test split."""

    mission: str
    arm: str
    seed: int
    arm_hash: str


class LocalLock(SplitLock):
    """Lock and record of one process; closed until `freeze` is called."""

    def __init__(self) -> None:
        self._frozen: dict[tuple[str, str], str] = {}
        self._reads: list[SplitRead] = []

    @property
    def reads(self) -> tuple[SplitRead, ...]:
        """Every read so far, in order."""
        return tuple(self._reads)

    def freeze(self, mission: str, arm_hashes: Mapping[str, str]) -> None:
        """Fixes the settings of a mission's arms; the same ones may be frozen again.

        Raises:
            LockedSplitError: an arm changes whose test scores were read.
        """
        for arm, arm_hash in arm_hashes.items():
            seen = [r for r in self._reads if (r.mission, r.arm) == (mission, arm)]
            known = self._frozen.get((mission, arm), arm_hash)
            if seen and known != arm_hash:
                raise LockedSplitError(
                    changed_after_reads(mission, arm, known, arm_hash, len(seen))
                )
        self._frozen |= {(mission, arm): digest for arm, digest in arm_hashes.items()}

    def open_test(self, *, mission: str, arm: str, seed: int, arm_hash: str) -> None:
        seen = sum((read.mission, read.arm) == (mission, arm) for read in self._reads)
        refuse_unfrozen(mission, arm, self._frozen.get((mission, arm)), arm_hash, seen)
        self._reads.append(SplitRead(mission=mission, arm=arm, seed=seed, arm_hash=arm_hash))


def refuse_unfrozen(
    mission: str, arm: str, frozen: str | None, arm_hash: str, num_reads: int
) -> None:
    """Raises LockedSplitError unless `arm_hash` is what was frozen; the rule of every lock."""
    if frozen is None:
        raise LockedSplitError(
            f"Mission {mission}, arm {arm!r}: the test split is locked. Its settings must be "
            "frozen first (choose them on dev)."
        )
    if frozen != arm_hash:
        raise LockedSplitError(changed_after_reads(mission, arm, frozen, arm_hash, num_reads))


def changed_after_reads(mission: str, arm: str, frozen: str, now: str, num_reads: int) -> str:
    """The refusal of an arm whose settings are not the frozen ones."""
    after = f"after {num_reads} reads of its test scores" if num_reads else "before any read"
    return (
        f"Mission {mission}, arm {arm!r}: its settings changed since they were frozen, {after} "
        f"({frozen[:12]} frozen, {now[:12]} now). The test split stays locked for it: launch the "
        "changed arm as a run of its own."
    )
