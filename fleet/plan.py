"""From resolved mission files to runs, packs, keys, resources, order and expected time. Pure.

Knows neither models nor Ray nor the ledger; the same specifications always give the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleet.errors import ConfigError, UsageError
from fleet.policies import Job, Request, schedule, urgent_first
from missions.spec import MissionSpec
from missions.spec_errors import suggest

MISSION_OVERHEAD_S = 8.0
"""CPU seconds that one Train job costs beside the mission's own work (measured, see docs)."""
START_S = 8.0
"""Wall seconds until Ray and the first workers are up (measured)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """One arm under one seed."""

    name: str
    mission: str
    pack: str
    arm: str
    arm_hash: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """Runs that one worker trains together."""

    name: str
    mission: str
    seed: int
    position: int
    runs: tuple[RunPlan, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionWork:
    """Everything that one mission asks of the fleet."""

    mission: str
    position: int
    spec: MissionSpec
    spec_hash: str
    packs: tuple[PackPlan, ...]
    expected_cpu_s: float

    @property
    def runs(self) -> tuple[RunPlan, ...]:
        return tuple(run for pack in self.packs for run in pack.runs)

    @property
    def job(self) -> Job:
        """The worker group as admission sees it."""
        wanted = self.spec.resources
        packed = wanted.strategy == "packed"
        return Job(
            name=self.mission,
            request=Request(
                cpus=wanted.cpus,
                gpus=wanted.gpus,
                memory_mib=float(wanted.memory_mib),
                custom=wanted.custom,
                labels=wanted.labels,
            ),
            workers=min(wanted.workers, len(self.packs)) if packed else wanted.workers,
            depends_on=self.spec.depends_on,
            shared=not packed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CampaignPlan:
    """A whole launch, before anything has run."""

    run_id: str
    profile: str
    code_version: str
    works: tuple[MissionWork, ...]
    """In the order in which missions are started: the longest chain of dependants first."""

    @property
    def expected_cpu_s(self) -> float:
        return sum(work.expected_cpu_s for work in self.works)

    def expected_wall_s(self, slots: int) -> float:
        """List-scheduled makespan over `slots` equal workers, start-up included."""
        durations = {w.mission: w.expected_cpu_s + MISSION_OVERHEAD_S for w in self.works}
        return START_S + schedule(durations, slots)

    def work(self, mission: str) -> MissionWork:
        """The work of one mission."""
        return next(work for work in self.works if work.mission == mission)


def plan_campaign(
    specs: Sequence[MissionSpec], *, run_id: str, profile: str, code_version: str
) -> CampaignPlan:
    """Lays out a campaign.

    Raises:
        ConfigError: dependencies among the missions run in a circle.
    """
    works = [_work(spec) for spec in specs]
    ordered = _order(works)
    placed = tuple(
        MissionWork(
            mission=work.mission,
            position=position,
            spec=work.spec,
            spec_hash=work.spec_hash,
            packs=work.packs,
            expected_cpu_s=work.expected_cpu_s,
        )
        for position, work in enumerate(ordered)
    )
    return CampaignPlan(run_id=run_id, profile=profile, code_version=code_version, works=placed)


def select_arms(spec: MissionSpec, wanted: Sequence[str]) -> MissionSpec:
    """The specification restricted to some arms.

    Gates and parity pairs that name a left-out arm go with it. Leaving out ablations and
    ceilings keeps the verdict; leaving out a treatment or a control withholds it, because the
    claim would be judged against less than its mission file states.

    Raises:
        UsageError: an unknown arm, or an arm of the primary gate is left out.
    """
    for arm in wanted:
        if arm not in spec.arms:
            raise UsageError(
                f"--arms: mission {spec.id} has no arm {arm!r}.{suggest(arm, spec.arms)}"
            )
    keep = [arm for arm in spec.arms if arm in set(wanted)]
    gates = [g for g in spec.gates if _named(g) <= set(keep)]
    primary = next(gate for gate in spec.gates if gate.primary)
    if primary not in gates:
        needed = ", ".join(sorted(_named(primary)))
        raise UsageError(f"--arms: mission {spec.id} needs the arms of its primary gate: {needed}.")
    left_out = [arm for arm in spec.arms if arm not in keep]
    deciding = [arm for arm in left_out if spec.arms[arm].role in ("treatment", "control")]
    document = spec.model_dump(mode="json")
    document["arms"] = {arm: document["arms"][arm] for arm in keep}
    kept_gates = {gate.id for gate in gates}
    document["gates"] = [gate for gate in document["gates"] if gate["id"] in kept_gates]
    document["parity"]["pairs"] = [p for p in document["parity"]["pairs"] if set(p) <= set(keep)]
    if document["sweep"] is not None:
        document["sweep"] = _sweep_of(document["sweep"], keep)
    if deciding and not spec.withhold_verdict:
        document["withhold_verdict"] = f"arms left out by --arms: {', '.join(deciding)}"
    return MissionSpec.model_validate(document)


def _sweep_of(sweep: dict[str, Any], keep: Sequence[str]) -> dict[str, Any] | None:
    """A sweep without the arms that are left out; None where no swept arm is left."""
    part = {
        field: {arm: value for arm, value in sweep[field].items() if arm in keep}
        for field in ("arms", "follow", "untuned")
    }
    part["follow"] = {
        arm: [leader for leader in leaders if leader in part["arms"]]
        for arm, leaders in part["follow"].items()
    }
    return {**sweep, **part} if part["arms"] else None


def arms_by_mission(
    items: Sequence[str], specs: Mapping[str, MissionSpec]
) -> dict[str, tuple[str, ...]]:
    """Reads `--arms`: `arm` picks it in every mission that has it, `A:arm` in mission A.

    Missions that no item speaks of keep all their arms.
    """
    chosen: dict[str, list[str]] = {}
    for item in items:
        mission, separator, arm = item.rpartition(":")
        if separator:
            if mission not in specs:
                raise UsageError(
                    f"--arms {item!r}: mission {mission!r} is not launched."
                    f"{suggest(mission, specs)}"
                )
            chosen.setdefault(mission, []).append(arm)
            continue
        owners = [name for name, spec in specs.items() if arm in spec.arms]
        if not owners:
            known = {name for spec in specs.values() for name in spec.arms}
            raise UsageError(f"--arms: no launched mission has arm {arm!r}.{suggest(arm, known)}")
        for name in owners:
            chosen.setdefault(name, []).append(arm)
    return {name: tuple(arms) for name, arms in chosen.items()}


def _named(gate: Any) -> set[str]:
    return {arm for arm in (gate.treatment, getattr(gate, "versus", "")) if arm}


def _work(spec: MissionSpec) -> MissionWork:
    spec_hash = spec.digest()
    sweep_s = spec.sweep.expected_cpu_s if spec.sweep is not None else 0.0
    arm_hashes = {arm: spec.arm_digest(arm) for arm in spec.arms}
    _check_apart(spec.id, arm_hashes)
    packs: list[PackPlan] = []
    for seed in spec.seeds:
        groups = [list(spec.arms)] if spec.pack == "seed" else [[arm] for arm in spec.arms]
        for arms in groups:
            name = f"{spec.id}-s{seed}" if spec.pack == "seed" else f"{spec.id}-{arms[0]}-s{seed}"
            runs = tuple(
                RunPlan(
                    name=f"{spec.id}-{arm}-s{seed}",
                    mission=spec.id,
                    pack=name,
                    arm=arm,
                    arm_hash=arm_hashes[arm],
                    seed=seed,
                )
                for arm in arms
            )
            packs.append(
                PackPlan(name=name, mission=spec.id, seed=seed, position=len(packs), runs=runs)
            )
    return MissionWork(
        mission=spec.id,
        position=0,
        spec=spec,
        spec_hash=spec_hash,
        packs=tuple(packs),
        expected_cpu_s=spec.resources.expected_cpu_s + sweep_s,
    )


def settled(work: MissionWork, spec: MissionSpec) -> MissionWork:
    """The work of a mission whose sweep is settled: the same file, the chosen settings."""
    chosen = _work(spec)
    return replace(work, spec=spec, packs=chosen.packs)


def _check_apart(mission: str, arm_hashes: Mapping[str, str]) -> None:
    """A run is known by its settings and seed: two arms with the same settings are one run twice.

    Raises:
        ConfigError: names both arms.
    """
    first: dict[str, str] = {}
    for arm, digest in arm_hashes.items():
        other = first.setdefault(digest, arm)
        if other != arm:
            raise ConfigError(
                f"Mission {mission}: arms {other!r} and {arm!r} have the same settings. Give them "
                "different ones; a note that says what they are is enough."
            )


def _order(works: Sequence[MissionWork]) -> list[MissionWork]:
    """Those on whom the longest chain hangs first; so dependencies go before their dependants."""
    by_name = {work.mission: work for work in works}
    try:
        order = urgent_first(
            {work.mission: work.expected_cpu_s for work in works},
            {work.mission: work.spec.depends_on for work in works},
        )
    except ValueError as circle:
        raise ConfigError(f"depends_on runs in a circle among missions {circle}.") from None
    return [by_name[name] for name in order]
