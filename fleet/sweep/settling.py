"""Writes what a sweep chose into the specification, and reads it back from the ledger. Pure.

The mission file stays as it is: the choice is a specification of its own, recorded beside it,
whose arms are frozen by hash before anything of the test split is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.ledger.reader import LedgerReader
from fleet.ledger.sweeps import SWEEP
from fleet.sweep.records import SweepOutcome
from missions.settings import with_settings
from missions.spec import MissionSpec

CANCELLED = "cancelled before the sweep was settled"
"""Why an arm is not tuned although the mission file says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """What the ledger is told when a sweep is settled."""

    spec_json: str
    freeze: Mapping[str, Any]


def chosen_spec(spec: MissionSpec, outcome: SweepOutcome) -> MissionSpec:
    """The specification with the chosen settings, those of followers included."""
    return with_choices(spec, {choice.arm: choice.settings for choice in outcome.choices})


def with_choices(spec: MissionSpec, settings: Mapping[str, Mapping[str, Any]]) -> MissionSpec:
    """The specification with these settings, by swept arm; followers take their leaders'.

    An arm that was cancelled before keeps the file's, and nobody confirms it.
    """
    assert spec.sweep is not None, "only a mission with a sweep has chosen settings"
    chosen = spec
    for arm, own in settings.items():
        chosen = with_settings(chosen, arm, own)
    for arm, leaders in spec.sweep.follow.items():
        for leader in (name for name in leaders if name in settings):
            chosen = with_settings(chosen, arm, settings[leader])
    return chosen


def settlement(spec: MissionSpec, *, spec_hash: str, code_version: str) -> Settlement:
    """The chosen specification and the freeze of its arms.

    Args:
        spec_hash: of the mission file, which does not change.
    """
    return Settlement(
        spec_json=json.dumps(spec.model_dump(mode="json")),
        freeze={
            "mission": spec.id,
            "spec_hash": spec_hash,
            "arm_hashes": {arm: spec.arm_digest(arm) for arm in spec.arms},
            "seeds": list(spec.seeds),
            "code_version": code_version,
        },
    )


def choice_body(spec: MissionSpec, outcome: SweepOutcome) -> dict[str, Any]:
    """The decision: what was searched how, and what came of it for every arm."""
    assert spec.sweep is not None, "only a mission with a sweep has chosen settings"
    sweep = spec.sweep
    found = {choice.arm for choice in outcome.choices}
    follow = {arm: list(who) for arm, who in sweep.follow.items() if found.issuperset(who)}
    left_out = [arm for arm in (*sweep.arms, *sweep.follow) if arm not in {*found, *follow}]
    return {
        "mission": spec.id,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "seeds": list(sweep.seeds),
        "sampler_seed": sweep.sampler_seed,
        "rungs": [dict(rung) for rung in sweep.rungs],
        "choices": {
            choice.arm: {
                "settings": dict(choice.settings),
                "number": choice.number,
                "score": choice.score,
                "file_score": choice.file_score,
                "trials": choice.trials,
                "evaluations": choice.evaluations,
                "refused": choice.refused,
            }
            for choice in outcome.choices
        },
        "follow": follow,
        "untuned": {**sweep.untuned, **dict.fromkeys(left_out, CANCELLED)},
        "trial_keys": [row.key for row in outcome.rows],
    }


def left_out(reader: LedgerReader, mission: str) -> frozenset[str]:
    """Arms for which a settled sweep chose nothing, because they were cancelled before."""
    if reader.swept_spec_json(mission) is None:
        return frozenset()
    body = [body for _, body in reader.bodies(SWEEP) if body["mission"] == mission][-1]
    return frozenset(arm for arm, why in body["untuned"].items() if why == CANCELLED)


def settled_spec(reader: LedgerReader, spec: MissionSpec) -> MissionSpec | None:
    """What the mission is confirmed with, where its sweep is settled."""
    text = reader.swept_spec_json(spec.id)
    return None if text is None else MissionSpec.model_validate_json(text)


def carried_over(reader: LedgerReader, spec: MissionSpec) -> MissionSpec | None:
    """A changed specification with what was chosen before the change; None: nothing was chosen.

    Args:
        spec: of the changed file, which differs in nothing that a sweep searches.
    """
    if reader.swept_spec_json(spec.id) is None:
        return None
    body = [body for _, body in reader.bodies(SWEEP) if body["mission"] == spec.id][-1]
    return with_choices(spec, {arm: c["settings"] for arm, c in body["choices"].items()})
