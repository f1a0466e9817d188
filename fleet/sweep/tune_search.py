"""The search as Ray Tune's searcher, and the stop as its stopper. Imports Ray Tune.

Tune asks for trials and tells of their end, all from one thread; the answers come from `halving`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from fleet.sweep.halving import WAIT, MissionSearch
from fleet.sweep.optuna_proposer import METRIC
from fleet.sweep.records import Trial, TrialRow
from fleet.sweep.tuning import as_config


class LedgerSearch(Searcher):  # type: ignore[misc]
    """Hands out the trials of a mission and takes their results from the ledger."""

    def __init__(
        self,
        search: MissionSearch,
        row_of: Callable[[Trial], TrialRow | None],
        tell: Callable[[Trial, TrialRow], None],
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._search = search
        self._row_of = row_of
        self._tell = tell
        self._at_work: dict[str, Trial] = {}
        self._lost: list[Trial] = []

    @property
    def lost(self) -> list[Trial]:
        """Trials that ended without a result, more often than they are restarted. What comes next
        would be chosen without them, so nothing more is begun; those of arms that a user has
        cancelled, before or since, hold nothing up."""
        return [trial for trial in self._lost if not self._search.leaves_out(trial.arm)]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        found = None if self.lost else self._search.next()
        if found is None:
            return str(Searcher.FINISHED)
        if found == WAIT:
            return None
        assert isinstance(found, Trial)
        self._search.start(found)
        self._at_work[trial_id] = found
        return as_config(found)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial = self._at_work.pop(trial_id, None)
        if trial is None:
            return
        row = self._row_of(trial)
        if row is None:
            self._lost.append(trial)
            return
        self._search.tell(row)
        self._tell(trial, row)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a later start replays the search from the ledger."""
        Path(checkpoint_path).write_bytes(b"")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of its settings in a file that nobody reads."""
        return {}


class FlagStopper(Stopper):  # type: ignore[misc]
    """Ends the experiment once a flag is set."""

    def __init__(self, is_set: Callable[[], bool]) -> None:
        self._is_set = is_set

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._is_set()

    def __getstate__(self) -> dict[str, Any]:
        return {}
