"""Which plans exist: every non-empty selection of the skills, in their order.

Three skills give seven plans. A plan is written as the letters of its skills (`RF`); a prefix of a
plan is a state of the macro-policy, the next skill (or stopping) its action. It knows neither
models nor what the skills do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

from bem.errors import InvalidInputError

STOP = ""
"""The action that ends a plan."""


@dataclass(frozen=True)
class PlanSpace:
    """All plans over `skills`: one letter each, used at most once, at most `horizon` steps."""

    skills: str
    horizon: int

    def __post_init__(self) -> None:
        if not self.skills or len(set(self.skills)) != len(self.skills):
            raise InvalidInputError(f"Skills '{self.skills}' must be distinct letters, at least 1.")
        if not 1 <= self.horizon <= len(self.skills):
            raise InvalidInputError(
                f"The horizon is {self.horizon}; allowed: 1..{len(self.skills)}."
            )

    @cached_property
    def plans(self) -> tuple[str, ...]:
        """Every plan, shorter ones first."""
        return tuple(
            "".join(chosen)
            for steps in range(1, self.horizon + 1)
            for chosen in itertools.combinations(self.skills, steps)
        )

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """Every state of the policy: nothing yet, or what was done so far."""
        return ("", *self.plans)

    @property
    def actions(self) -> tuple[str, ...]:
        """Every action: the skills, then STOP."""
        return (*self.skills, STOP)

    def legal(self, prefix: str) -> tuple[str, ...]:
        """Actions after `prefix`: later skills within the horizon; STOP once something was done."""
        if prefix not in self.prefixes:
            known = ", ".join(self.plans)
            raise InvalidInputError(f"Unknown plan prefix '{prefix}'. Known: {known}.")
        after = self.skills.index(prefix[-1]) + 1 if prefix else 0
        following = self.skills[after:] if len(prefix) < self.horizon else ""
        return (*following, STOP) if prefix else tuple(following)

    def steps(self, plan: str) -> tuple[tuple[str, str], ...]:
        """(prefix, action) of every decision that leads to `plan`, its stop included."""
        if plan not in self.plans:
            raise InvalidInputError(f"Unknown plan '{plan}'. Known: {', '.join(self.plans)}.")
        return (*((plan[:i], plan[i]) for i in range(len(plan))), (plan, STOP))
