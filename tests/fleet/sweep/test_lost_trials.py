"""A trial that leaves no result however often it is tried ends the sweep; nothing is chosen."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_catalog import document
from ray.exceptions import RayTaskError

from fleet.errors import FleetError, StorageError, SweepError
from fleet.policies import Request
from fleet.sweep.halving import MissionSearch
from fleet.sweep.records import Trial, TrialRow
from fleet.sweep.resources import TrialResources
from fleet.sweep.tuning import SweepJob, TuneSweep, end_of_sweep, parse_trial
from missions.spec import MissionSpec, parse_spec

SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 3,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"treated": {}},
    "untuned": {"plain": "nothing to tune", "extra": "nothing to tune"},
}
TRIAL = Trial(arm="treated", number=1, rung=0, settings={"params.training.lr": 0.02})


class Listed:
    """Settings from a list, and what was learned of them."""

    def __init__(self) -> None:
        self.learned: dict[int, float | None] = {}

    def propose(self, number: int) -> Mapping[str, Any]:
        return {"params.training.lr": 0.001 * (number + 1)}

    def learn(self, number: int, score: float | None) -> None:
        self.learned[number] = score


def spec() -> MissionSpec:
    return parse_spec({**document("F1"), "sweep": SWEEP}, "fake")


def row_of(trial: Trial) -> TrialRow:
    return TrialRow(
        key=f"{trial.arm} {trial.number}",
        mission="F1",
        arm=trial.arm,
        number=trial.number,
        rung=trial.rung,
        settings=trial.settings,
        seed_scores={100: 0.5},
        cost={"trainable_params": 1.0, "forward_flops": 1.0},
        error="",
        traceback="",
        cpu_s=0.0,
        wall_s=0.0,
    )


def test_nothing_is_begun_after_a_trial_without_a_result() -> None:
    from fleet.sweep.tune_search import LedgerSearch

    rows: dict[int, TrialRow] = {}
    proposer = Listed()
    told: list[TrialRow] = []
    search = LedgerSearch(
        MissionSearch(spec(), lambda arm: proposer),
        lambda trial: rows.get(trial.number),
        lambda trial, row: told.append(row),
    )
    first = search.suggest("a")
    assert isinstance(first, dict)
    rows[0] = row_of(parse_trial(first))
    search.on_trial_complete("a", {})
    assert isinstance(search.suggest("b"), dict)
    search.on_trial_complete("b", error=True)
    assert [trial.number for trial in search.lost] == [1]
    assert search.suggest("c") == search.FINISHED
    assert (proposer.learned, told) == ({0: 0.5}, [rows[0]])


def test_a_lost_trial_of_a_cancelled_arm_ends_nothing() -> None:
    from fleet.sweep.tune_search import LedgerSearch

    missions = MissionSearch(spec(), lambda arm: Listed())
    search = LedgerSearch(missions, lambda trial: None, lambda trial, row: None)
    assert isinstance(search.suggest("a"), dict)
    missions.leave_out(["treated"])
    search.on_trial_complete("a", error=True)
    assert search.lost == []


def test_an_arm_that_is_cancelled_after_its_trial_was_lost_ends_nothing() -> None:
    from fleet.sweep.tune_search import LedgerSearch

    missions = MissionSearch(spec(), lambda arm: Listed())
    search = LedgerSearch(missions, lambda trial: None, lambda trial, row: None)
    assert isinstance(search.suggest("a"), dict)
    search.on_trial_complete("a", error=True)
    assert len(search.lost) == 1
    missions.leave_out(["treated"])
    assert search.lost == []


def wrapped(cause: Exception) -> Exception:
    """As Ray hands on what a task raised: of both kinds, and its words are a traceback."""
    error = RayTaskError("train", "ray::trial (pid=1)\nTraceback ...", cause)
    return error.as_instanceof_cause()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("errors", "kind", "said"),
    [
        ([wrapped(StorageError("OSError: disk full"))], StorageError, "^OSError: disk full$"),
        (
            [wrapped(SweepError("F1: OutOfMemoryError: 2 GiB (resident 9 MiB)"))],
            SweepError,
            r"treated \(params.training.lr 0.02\) left no result in 3 attempts: F1: OutOfMemory",
        ),
        ([RuntimeError("The actor died\nunexpectedly")], SweepError, "attempts: The actor died. "),
        ([], SweepError, "its process ended"),
    ],
)
def test_the_end_of_such_a_sweep(
    errors: list[BaseException], kind: type[FleetError], said: str
) -> None:
    with pytest.raises(kind, match=said) as ended:
        raise end_of_sweep("F1", TRIAL, errors)
    assert type(ended.value) is kind


def test_a_disk_that_is_full_for_tune_itself_is_storage_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tune(self: TuneSweep) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("Tune could not write its files") from error

    monkeypatch.setattr(TuneSweep, "_tune", tune)

    class Empty:
        def call(self, method: str, *arguments: Any) -> None:
            return None

    job = SweepJob(
        mission="F1",
        root=str(tmp_path),
        spec_json=spec().model_dump_json(),
        catalog="fake_catalog",
        code_version="c",
        namespace="n",
        gpus=0,
        train_storage=str(tmp_path),
    )
    own = TrialResources(own=Request(cpus=1), group=None, at_once=1)
    first = {"treated": {"params.training.lr": 0.002}}
    with pytest.raises(StorageError, match="No space left"):
        TuneSweep(job, Empty(), first, own).run()  # type: ignore[arg-type]
