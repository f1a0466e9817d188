"""Which trial comes next and which settings are chosen, with scores made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fake_catalog import document

from fleet.errors import SweepError
from fleet.sweep.halving import WAIT, MissionSearch, rung_sizes
from fleet.sweep.records import Trial, TrialRow
from missions.spec import MissionSpec, parse_spec

COST = {"trainable_params": 100.0, "forward_flops": 1e6}


class Listed:
    """Proposes x = 0, 1, 2, ... and remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float | None]] = []

    def propose(self, number: int) -> Mapping[str, Any]:
        return {"params.x": number}

    def learn(self, number: int, score: float | None) -> None:
        self.told.append((number, score))


def make_spec(trials: int = 4, num_rungs: int = 1, mode: str = "max") -> MissionSpec:
    rungs = [{"params.training.steps": 2**at} for at in range(num_rungs)]
    sweep = {
        "metric": "em",
        "mode": mode,
        "trials": trials,
        "seeds": [100],
        "space": {"params.training.lr": {"kind": "loguniform", "low": 0.001, "high": 1}},
        "arms": {"treated": {}, "plain": {}},
        "rungs": rungs,
    }
    return parse_spec({**document("F1"), "sweep": sweep}, "test")


def row(trial: Trial, score: float | None, cost: Mapping[str, float] = COST) -> TrialRow:
    return TrialRow(
        key=f"{trial.arm}-{trial.number}-{trial.rung}",
        mission="F1",
        arm=trial.arm,
        number=trial.number,
        rung=trial.rung,
        settings=trial.settings,
        seed_scores={} if score is None else {100: score},
        cost={} if score is None else cost,
        error="boom" if score is None else "",
        traceback="",
        cpu_s=1.0,
        wall_s=1.0,
    )


def search_of(spec: MissionSpec) -> tuple[MissionSearch, dict[str, Listed]]:
    proposers: dict[str, Listed] = {}

    def make(arm: str) -> Listed:
        return proposers.setdefault(arm, Listed())

    return MissionSearch(spec, make), proposers


def run_all(search: MissionSearch, scores: Mapping[int, float | None], at_once: int = 1) -> list:
    """Runs trials until the end, the newest of those at work ending first."""
    order: list[tuple[str, int, int]] = []
    at_work: list[Trial] = []
    while True:
        found = search.next()
        if isinstance(found, Trial) and len(at_work) < at_once:
            search.start(found)
            at_work.append(found)
            order.append((found.arm, found.rung, found.number))
            continue
        if not at_work:
            assert found is None
            return order
        ended = at_work.pop()
        search.tell(row(ended, scores[ended.number]))


def test_rung_sizes() -> None:
    assert rung_sizes(9, 3, 3) == (9, 3, 1)
    assert rung_sizes(4, 4, 2) == (4, 2, 1, 1)
    assert rung_sizes(3, 1, 2) == (3,)


def test_every_arm_has_the_same_budget_and_the_best_of_the_last_rung_is_chosen() -> None:
    search, proposers = search_of(make_spec(trials=4, num_rungs=2))
    order = run_all(search, {0: 0.1, 1: 0.9, 2: 0.5, 3: 0.3})
    for arm in ("treated", "plain"):
        own = [(rung, number) for name, rung, number in order if name == arm]
        assert own == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
        assert proposers[arm].told == [(0, 0.1), (1, 0.9), (2, 0.5), (3, 0.3)]
    outcome = search.outcome()
    assert {(c.arm, c.number, c.trials, c.evaluations) for c in outcome.choices} == {
        ("treated", 1, 4, 6),
        ("plain", 1, 4, 6),
    }
    assert {choice.file_score for choice in outcome.choices} == {0.1}
    assert outcome.refusals == {}


@pytest.mark.parametrize("at_once", [2, 5])
def test_how_many_run_at_once_changes_nothing_but_the_order(at_once: int) -> None:
    scores = {0: 0.4, 1: 0.2, 2: 0.4, 3: 0.9}
    one, _ = search_of(make_spec(trials=4, num_rungs=3))
    many, _ = search_of(make_spec(trials=4, num_rungs=3))
    assert sorted(run_all(one, scores)) == sorted(run_all(many, scores, at_once))
    assert one.outcome() == many.outcome()


def test_an_arm_that_is_cancelled_is_left_out_and_the_others_choose_alike() -> None:
    scores = {0: 0.1, 1: 0.9, 2: 0.5, 3: 0.3}
    whole, _ = search_of(make_spec(trials=4, num_rungs=2))
    run_all(whole, scores)
    search, _ = search_of(make_spec(trials=4, num_rungs=2))
    for _ in range(4):
        found = search.next()
        assert isinstance(found, Trial)
        search.start(found)
        if (found.arm, found.number) != ("plain", 1):
            search.tell(row(found, scores[found.number]))
    search.leave_out(["plain"])  # a trial of it is at work, and is waited for by nobody
    assert {arm for arm, _, _ in run_all(search, scores)} == {"treated"}
    outcome = search.outcome()
    assert outcome.choices == tuple(c for c in whole.outcome().choices if c.arm == "treated")
    assert {r.arm for r in outcome.rows} == {"treated", "plain"}, "what was run is told"


def test_an_arm_whose_settings_another_takes_is_searched_on() -> None:
    search, _ = search_of(make_spec())
    search._follow = {"extra": ("plain",)}
    search.leave_out(["plain"])
    assert not search.leaves_out("plain")
    search.leave_out(["plain", "extra"])
    assert search.leaves_out("plain")


def test_equal_scores_keep_the_earlier_trial_and_min_turns_it_round() -> None:
    search, _ = search_of(make_spec(trials=3))
    run_all(search, {0: 0.5, 1: 0.5, 2: 0.4})
    assert [choice.number for choice in search.outcome().choices] == [0, 0]
    search, _ = search_of(make_spec(trials=3, mode="min"))
    run_all(search, {0: 0.5, 1: 0.5, 2: 0.4})
    assert [choice.number for choice in search.outcome().choices] == [2, 2]


def test_a_trial_waits_for_the_one_before_it() -> None:
    search, _ = search_of(make_spec())
    for _ in range(2):
        found = search.next()
        assert isinstance(found, Trial)
        search.start(found)
    assert search.next() == WAIT


def test_a_setting_that_changes_the_size_is_refused_and_said_so() -> None:
    search, proposers = search_of(make_spec(trials=2))
    while isinstance(trial := search.next(), Trial):
        search.start(trial)
        larger = {**COST, "trainable_params": 200.0}
        search.tell(row(trial, float(trial.number), larger if trial.number else COST))
    outcome = search.outcome()
    assert [choice.number for choice in outcome.choices] == [0, 0]
    assert [choice.refused for choice in outcome.choices] == [1, 1]
    assert outcome.refusals["plain-1-0"] == (
        "trainable_params 200 instead of 100: the arms were matched in size"
    )
    assert proposers["plain"].told == [(0, 0.0), (1, None)]


def test_failed_trials_count_and_are_never_chosen() -> None:
    search, _ = search_of(make_spec(trials=3))
    run_all(search, {0: 0.1, 1: None, 2: 0.05})
    outcome = search.outcome()
    assert [(c.number, c.evaluations, c.refused) for c in outcome.choices] == [(0, 3, 1)] * 2
    search, _ = search_of(make_spec(trials=2))
    run_all(search, {0: None, 1: 0.5})
    with pytest.raises(SweepError, match=r"F1: no trial of arm 'treated' can be chosen.*boom"):
        search.outcome()


def test_a_result_told_twice_counts_once() -> None:
    search, proposers = search_of(make_spec(trials=2))
    trial = search.next()
    assert isinstance(trial, Trial)
    search.start(trial)
    search.tell(row(trial, 0.5))
    search.tell(row(trial, 0.5))
    assert proposers[trial.arm].told == [(0, 0.5)]
