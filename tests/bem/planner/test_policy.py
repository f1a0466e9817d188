from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bem.errors import InvalidInputError
from bem.planner import MacroPolicy, PlanSpace, RewardTable, clone_behaviour
from bem.planner.policy import decision_weights

SPACE = PlanSpace("REF", 3)


def one_hot(plans: list[str]) -> Tensor:
    return torch.eye(len(SPACE.plans))[[SPACE.plans.index(plan) for plan in plans]]


def policy(width: int = 8, feature_size: int = 4) -> MacroPolicy:
    return MacroPolicy(
        SPACE,
        feature_size=feature_size,
        width=width,
        generator=torch.Generator().manual_seed(0),
    )


def test_forbidden_actions_get_no_probability() -> None:
    features = torch.randn(len(SPACE.prefixes), 4, generator=torch.Generator().manual_seed(1))
    logits = policy()(features, torch.arange(len(SPACE.prefixes)))
    for row, prefix in zip(logits, SPACE.prefixes, strict=True):
        finite = {a for a, v in zip(SPACE.actions, row.tolist(), strict=True) if v > -math.inf}
        assert finite == set(SPACE.legal(prefix))


def test_parameters_equal_the_formula() -> None:
    made = policy(width=5, feature_size=9)
    assert sum(p.numel() for p in made.parameters()) == MacroPolicy.count_parameters(
        SPACE, feature_size=9, width=5
    )
    assert made.forward_flops(2) == 2 * 2 * (9 * 5 + 5 * 4)


def test_cloning_learns_a_rule_that_is_not_linear() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(600, 4, generator=generator)
    rule = [
        ("REF" if y > 0 else "RF") if x * y > 0 else ("EF" if y > 0 else "F")
        for x, y in features[:, :2].tolist()
    ]
    made = policy(width=16)
    losses = clone_behaviour(
        made, features[:500], one_hot(rule[:500]), steps=300, lr=0.03, weight_decay=0.0
    )
    assert losses[-1] < 0.1 * losses[0]
    held_out = made.plan(features[500:])
    right = sum(a == b for a, b in zip(held_out, rule[500:], strict=True))
    assert right >= 85


def test_a_plan_is_the_greedy_walk_over_the_logits() -> None:
    made = policy()
    with torch.no_grad():
        made.out_AH.normal_(generator=torch.Generator().manual_seed(3))
        made.state_NH.normal_(generator=torch.Generator().manual_seed(4))
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(5))
    for row, plan in zip(features, made.plan(features), strict=True):
        prefix = ""
        while True:
            logits = made(row[None], torch.tensor([SPACE.prefixes.index(prefix)]))[0]
            action = SPACE.actions[int(logits.argmax())]
            if not action:
                break
            prefix += action
        assert plan == prefix
        assert 1 <= len(plan) <= 3


def test_constant_features_do_not_blow_up() -> None:
    made = policy()
    features = torch.ones(10, 4)
    clone_behaviour(made, features, one_hot(["F"] * 10), steps=20, lr=0.1, weight_decay=0.0)
    assert made.plan(features) == ["F"] * 10


def test_cloning_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="0 rows of plans for 0 queries"):
        clone_behaviour(
            policy(), torch.zeros(0, 4), torch.zeros(0, 7), steps=1, lr=0.1, weight_decay=0.0
        )


def test_decision_weights_sum_the_plans_that_pass_by() -> None:
    weights = torch.rand(5, len(SPACE.plans), generator=torch.Generator().manual_seed(6))
    got = decision_weights(SPACE, weights)
    for n, prefix in enumerate(SPACE.prefixes):
        for a, action in enumerate(SPACE.actions):
            passing = [
                p for p, plan in enumerate(SPACE.plans) if (prefix, action) in SPACE.steps(plan)
            ]
            expected = weights[:, passing].sum(1)
            torch.testing.assert_close(got[:, n, a], expected)


def test_soft_weights_prefer_what_is_right_more_often() -> None:
    """REF is always right, EF (cheaper) 55 % of the time: single best plans say EF, weights REF."""
    score = np.zeros((200, len(SPACE.plans)))
    score[:, SPACE.plans.index("REF")] = 1.0
    score[:110, SPACE.plans.index("EF")] = 1.0
    table = RewardTable(space=SPACE, score_QP=score, step_cost=0.05)
    features = torch.zeros(200, 4)
    chosen = {}
    for temperature in (0.0, 0.1):
        made = policy()
        weights = torch.from_numpy(table.plan_weights(temperature))
        clone_behaviour(made, features, weights, steps=200, lr=0.05, weight_decay=0.0)
        chosen[temperature] = made.plan(features)[0]
    assert chosen == {0.0: "EF", 0.1: "REF"}
