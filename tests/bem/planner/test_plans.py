from __future__ import annotations

import itertools

import numpy as np
import pytest

from bem.errors import InvalidInputError
from bem.planner import PlanSpace, RewardTable
from bem.planner.plans import STOP


def test_three_skills_give_seven_plans() -> None:
    assert PlanSpace("REF", 3).plans == ("R", "E", "F", "RE", "RF", "EF", "REF")


@pytest.mark.parametrize(("skills", "horizon"), [("REF", 1), ("REF", 2), ("REF", 3), ("ABCD", 3)])
def test_walks_over_legal_actions_reach_each_plan_once(skills: str, horizon: int) -> None:
    space = PlanSpace(skills, horizon)
    ended: list[str] = []

    def walk(prefix: str) -> None:
        for action in space.legal(prefix):
            if action == STOP:
                ended.append(prefix)
            else:
                walk(prefix + action)

    walk("")
    assert sorted(ended) == sorted(space.plans)
    expected = {
        "".join(word)
        for steps in range(1, horizon + 1)
        for word in itertools.product(skills, repeat=steps)
        if list(word) == sorted(set(word), key=skills.index)
    }
    assert set(space.plans) == expected


def test_steps_of_a_plan_are_its_decisions() -> None:
    space = PlanSpace("REF", 3)
    assert space.steps("RF") == (("", "R"), ("R", "F"), ("RF", STOP))
    for plan in space.plans:
        assert all(action in space.legal(prefix) for prefix, action in space.steps(plan))


def test_bad_spaces_and_prefixes_are_named() -> None:
    with pytest.raises(InvalidInputError, match="distinct"):
        PlanSpace("RR", 1)
    with pytest.raises(InvalidInputError, match=r"horizon is 4; allowed: 1\.\.3"):
        PlanSpace("REF", 4)
    with pytest.raises(InvalidInputError, match="Unknown plan prefix 'FR'"):
        PlanSpace("REF", 3).legal("FR")
    with pytest.raises(InvalidInputError, match="Unknown plan ''"):
        PlanSpace("REF", 3).steps("")


def test_reward_table_against_plain_loops() -> None:
    space = PlanSpace("REF", 3)
    rng = np.random.default_rng(0)
    score = rng.integers(0, 2, size=(50, 7)).astype(float)
    score[:3] = 0.0
    table = RewardTable(space=space, score_QP=score, step_cost=0.05)
    for row, plan in zip(score, table.best(), strict=True):
        rewards = {p: row[i] - 0.05 * len(p) for i, p in enumerate(space.plans)}
        assert rewards[plan] == max(rewards.values())
    means = {p: score[:, i].mean() - 0.05 * len(p) for i, p in enumerate(space.plans)}
    assert means[table.best_fixed()] == max(means.values())
    hard = table.plan_weights(0.0)
    assert [space.plans[int(i)] for i in hard.argmax(1)] == table.best()
    soft = table.plan_weights(0.2)
    rewards_Q = table.reward_QP / 0.2
    np.testing.assert_allclose(soft, np.exp(rewards_Q) / np.exp(rewards_Q).sum(1, keepdims=True))
    assert table.solvable().tolist() == [bool(row.any()) for row in score]
    plans = [space.plans[i % 7] for i in range(50)]
    assert table.score_of(plans).tolist() == [score[i, i % 7] for i in range(50)]


def test_a_step_is_worth_taking_only_for_a_better_answer() -> None:
    space = PlanSpace("REF", 3)
    score = np.zeros((2, 7))
    score[0, [space.plans.index("F"), space.plans.index("RF")]] = 1.0
    score[1, space.plans.index("REF")] = 1.0
    assert RewardTable(space=space, score_QP=score, step_cost=0.05).best() == ["F", "REF"]


def test_a_table_of_another_space_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"shape \(2, 3\)"):
        RewardTable(space=PlanSpace("REF", 3), score_QP=np.zeros((2, 3)), step_cost=0.0)
