"""The reward table: every plan scored once on every query, with frozen skills.

From it come the behaviour-cloning labels, the best fixed plan and the oracle; no model is needed
any more. It knows neither adapters nor queries.

Legend: Q queries, P plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bem.errors import InvalidInputError
from bem.planner.plans import PlanSpace

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RewardTable:
    """Scores of all plans of `space`, and what a step costs."""

    space: PlanSpace
    score_QP: FloatArray
    """Quality of each plan's answer, in the order of `space.plans`."""
    step_cost: float

    def __post_init__(self) -> None:
        if self.score_QP.ndim != 2 or self.score_QP.shape[1] != len(self.space.plans):
            raise InvalidInputError(
                f"score_QP has shape {self.score_QP.shape}; expected one column for each of "
                f"{', '.join(self.space.plans)}."
            )

    @property
    def reward_QP(self) -> FloatArray:
        """Score minus `step_cost` a step."""
        steps_P = np.array([len(plan) for plan in self.space.plans], dtype=np.float64)
        return np.asarray(self.score_QP - self.step_cost * steps_P)

    def best(self) -> list[str]:
        """The plan of highest reward for each query; the earlier plan where two are equal."""
        return [self.space.plans[int(i)] for i in self.reward_QP.argmax(1)]

    def plan_weights(self, temperature: float) -> FloatArray:
        """What to clone (Q, P): softmax of the reward over `temperature`; 0 is all on `best`.

        Each plan was run once, so a lucky guess looks like skill. At a temperature above the
        step cost a plan that is right every time outweighs, over queries of one sort, a cheaper
        one that is right half of the time; the argmax of single runs does not see the difference.
        """
        reward_QP = self.reward_QP
        if temperature == 0:
            columns = reward_QP.argmax(1)
            one_hot_QP: FloatArray = np.eye(reward_QP.shape[1], dtype=np.float64)[columns]
            return one_hot_QP
        logits_QP = (reward_QP - reward_QP.max(1, keepdims=True)) / temperature
        weight_QP = np.exp(logits_QP)
        return np.asarray(weight_QP / weight_QP.sum(1, keepdims=True))

    def best_fixed(self) -> str:
        """The one plan of highest mean reward."""
        return self.space.plans[int(self.reward_QP.mean(0).argmax())]

    def solvable(self) -> npt.NDArray[np.bool_]:
        """Queries on which some plan scores at all: only these say which plan is right."""
        return np.asarray(self.score_QP.max(1) > 0)

    def score_of(self, plans: list[str]) -> FloatArray:
        """The score of one named plan a query."""
        columns = [self.space.plans.index(plan) for plan in plans]
        return np.asarray(self.score_QP[np.arange(len(plans)), columns])
