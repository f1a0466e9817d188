"""What differs between the configuration of a run and what the same words mean today. Pure.

Says which differences a run can take up when its user allows them, and which it cannot: a mission
whose test scores were read keeps its arms' settings, its sweep and what its verdict depends on; a
mission with a verdict keeps everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from missions.spec import MissionSpec

DATA_FIELDS = frozenset({"base_model", "data_seed", "examples", "params"})
"""Fields of a mission file that decide its data and the scores of every arm."""
FIXED_FIELDS = frozenset({"id", "pack"})
"""Fields that lay out a mission's runs."""
SWEPT_FIELDS = DATA_FIELDS | {"arms", "sweep"}
"""Fields that decide what a sweep finds, where a mission has one."""
DECIDING_FIELDS = frozenset(
    {"clusters", "futility", "gates", "looks", "parity", "seeds", "sweep", "withhold_verdict"}
    | {"claim", "depends_on", "estimand", "hypothesis"}
)
"""Fields that decide what the verdict makes of test scores, or say what it is about, or on what
the mission builds: not to be chosen by the scores."""
_MISSING = object()


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionChange:
    """One mission whose specification is not the recorded one."""

    mission: str
    before: MissionSpec
    after: MissionSpec
    differences: tuple[str, ...]
    """`path: before -> after`, one line each."""

    @property
    def fields(self) -> frozenset[str]:
        """Top-level fields that differ."""
        one, other = (spec.model_dump(mode="json") for spec in (self.before, self.after))
        return frozenset(name for name in one if one[name] != other[name])

    @property
    def data_differ(self) -> bool:
        """Whether all of it is made anew: data, training, scores."""
        return bool(self.fields & DATA_FIELDS)

    @property
    def reopens_sweep(self) -> bool:
        """Whether what a sweep chose before says nothing of the mission as it is now."""
        swept = self.before.sweep is not None or self.after.sweep is not None
        return swept and bool(self.fields & SWEPT_FIELDS)


def compare(
    before: Mapping[str, MissionSpec], after: Mapping[str, MissionSpec]
) -> tuple[MissionChange, ...]:
    """The missions that differ, in order of id."""
    found = []
    for name in sorted(before):
        old, new = before[name], after[name]
        lines = _differences(old.model_dump(mode="json"), new.model_dump(mode="json"), "")
        if lines:
            found.append(
                MissionChange(mission=name, before=old, after=new, differences=tuple(lines))
            )
    return tuple(found)


def obstacles(
    change: MissionChange, *, test_reads: Mapping[str, int], judged: bool
) -> tuple[str, ...]:
    """Why a run cannot take a change up even when its user allows it; empty where it can.

    Args:
        test_reads: arm -> reads of its test scores so far.
        judged: whether the mission has its verdict.
    """
    name, old, new = change.mission, change.before, change.after
    if judged:
        return (f"mission {name} has its verdict: launch the changed mission as a run of its own",)
    found = [
        f"mission {name}: {field} lays out its runs: launch a run of its own"
        for field in sorted(change.fields & FIXED_FIELDS)
    ]
    if set(old.arms) != set(new.arms):
        found.append(
            f"mission {name}: arms are added or removed: launch a run of its own, or "
            f"`python fleet.py cancel {name}:ARM`"
        )
    gone = sorted(set(old.seeds) - set(new.seeds))
    if gone:
        found.append(f"mission {name}: seeds {gone} are removed: they are part of the plan")
    reads = sum(test_reads.values())
    # A sweep gave all arms the same budget, so one arm's settings are no matter of its own.
    fixed = DECIDING_FIELDS | (frozenset() if old.sweep is None else {"arms"})
    deciding = sorted(change.fields & fixed)
    if old.resources.strategy != new.resources.strategy:
        # Sums over a group end in other bits; the other resources decide no score.
        deciding.append("resources.strategy")
    if reads:
        found += [
            f"mission {name}: {field} differs, and test scores were read {reads} times: what "
            "decides is fixed before; launch the changed mission as a run of its own"
            for field in deciding
        ]
    for arm, count in sorted(test_reads.items()):
        same = arm in new.arms and old.arm_digest(arm) == new.arm_digest(arm)
        if count and (change.data_differ or not same):
            found.append(
                f"mission {name}, arm {arm}: its test scores were read {count} times with the "
                "settings of before: launch the changed arm as a run of its own"
            )
    return tuple(found)


def _differences(before: Any, after: Any, path: str) -> list[str]:
    """One line for every value that differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lines: list[str] = []
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{path}.{key}" if path else str(key)
            lines += _differences(before.get(key, _MISSING), after.get(key, _MISSING), inner)
        return lines
    if _is_records(before) and _is_records(after):
        return _differences(
            {item["id"]: item for item in before}, {item["id"]: item for item in after}, path
        )
    if before == after:
        return []
    return [f"{path}: {_show(before)} -> {_show(after)}"]


def _is_records(value: Any) -> bool:
    """A list of mappings that have ids (gates)."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(item, Mapping) and "id" in item for item in value)
    )


def _show(value: Any) -> str:
    if value is _MISSING:
        return "(none)"
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
