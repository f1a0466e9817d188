"""What the statistics need to know of a mission file. Knows neither models nor scores."""

from __future__ import annotations

from missions.spec import MissionSpec
from stats.verdict import MissionPlan, ParityRule


def plan_of(spec: MissionSpec) -> MissionPlan:
    """What the statistics need to know of a mission before they see a score."""
    return MissionPlan(
        mission=spec.id,
        hypothesis=spec.hypothesis,
        estimand=spec.estimand,
        seeds=spec.seeds,
        num_examples_min=1,
        gates=spec.gates,
        parity=ParityRule(
            tolerance=spec.parity.tolerance,
            pairs=spec.parity.pairs,
            check_trainable="trainable" in spec.parity.check,
            check_flops="flops" in spec.parity.check,
            check_bytes="bytes" in spec.parity.check,
        ),
        withhold=spec.withhold_verdict,
        looks=spec.looks,
        futility=spec.futility,
        clusters=spec.clusters,
    )
