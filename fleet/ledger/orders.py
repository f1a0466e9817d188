"""What users ordered for a run while it existed: cancelled, taken back, changed. Pure.

Orders are links of the chain of decisions, so that what stands is what was said last. Knows
decisions as (kind, body) pairs, no connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CANCEL = "cancel"
RETRY = "retry"
RESUME = "resume"
CHANGE = "change"
EARLY_STOP = "early_stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What stands."""

    missions: frozenset[str]
    """Missions that were cancelled whole."""
    arms: Mapping[str, tuple[str, ...]]
    """Mission -> arms that were cancelled."""
    early: Mapping[str, Mapping[str, Any]]
    """Mission -> its early end, as its own file asked for."""

    def cancelled(self, mission: str, arm: str) -> bool:
        """Whether nobody wants this arm of this mission any more."""
        return mission in self.missions or arm in self.arms.get(mission, ())

    def closed(self, mission: str) -> bool:
        """Whether no run of the mission is to be taken up again."""
        return mission in self.missions or mission in self.early


def standing_orders(decisions: Iterable[tuple[str, Mapping[str, Any]]]) -> Orders:
    """Reads the orders in their order; a retry takes back what it names."""
    missions: set[str] = set()
    arms: dict[str, list[str]] = {}
    early: dict[str, Mapping[str, Any]] = {}
    for kind, body in decisions:
        if kind == EARLY_STOP:
            early[str(body["mission"])] = body
        elif kind == CANCEL and body["arm"] is None:
            missions.add(str(body["mission"]))
        elif kind == CANCEL:
            arms.setdefault(str(body["mission"]), []).append(str(body["arm"]))
        elif kind == RETRY:
            for name in body["uncancelled"]:
                missions.discard(name)
                arms.pop(name, None)
    return Orders(
        missions=frozenset(missions),
        arms={name: tuple(dict.fromkeys(found)) for name, found in arms.items()},
        early=early,
    )


ORDER_KINDS = (CANCEL, RETRY, EARLY_STOP)
"""The kinds that `standing_orders` reads."""
