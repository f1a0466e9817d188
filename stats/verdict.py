"""From scores to a verdict: all gates of a mission, parity, leaks; then the family of missions.

    INVALID       the comparison cannot be believed: parity broken, cells missing, a leak, or
                  zero variation
    REJECT        a required gate is shown not to reach its margin (bound beyond it)
    PROMOTE       all required gates pass, and the mission survives Benjamini-Hochberg
    INCONCLUSIVE  neither: the margin lies inside an interval
    WITHHELD      the profile gives no verdict (a smoke run); the figures are shown all the same

A mission that was stopped for futility is INCONCLUSIVE, whatever its figures say: its plan was not
carried out, so nothing is promoted, and figures that were looked at between do not reject. Its
gates are shown as INTERIM and it enters the family with p = 1.

Inside a mission no correction is needed: it passes only when all required gates pass, so its
p-value is the largest of theirs (intersection-union). Over missions `judge_family` applies
Benjamini-Hochberg. Knows neither models nor the fleet; the result depends on the content of its
arguments alone, not on the order of rows or arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stats.bootstrap import CrossedResamples
from stats.costs import ArmCost
from stats.errors import StatsError
from stats.family import FamilyResult, counted, standings, what_would_select
from stats.gates import GateBase, GateContext, evaluate_gate
from stats.parity import ParityRow, ParityRule, parity_rows
from stats.plain import from_plain, to_plain
from stats.result import GateResult
from stats.scores import ScoreTable
from stats.sequential.futility import FutilityConfig
from stats.sequential.interim import LABEL
from stats.sequential.looks import LooksConfig, LookStanding, standing
from stats.sequential.stop import EarlyStop

__all__ = [
    "ArmCost",
    "FamilyResult",
    "MissionPlan",
    "MissionVerdict",
    "ParityRow",
    "ParityRule",
    "Verdict",
    "judge",
    "judge_family",
]

INDEPENDENT = "independent"
"""Word for items that are not clustered."""

Verdict = Literal["PROMOTE", "REJECT", "INCONCLUSIVE", "INVALID", "WITHHELD"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionPlan:
    """What was fixed before any score existed."""

    mission: str
    hypothesis: str
    estimand: str
    """What the primary gate estimates, in words."""
    seeds: tuple[int, ...]
    num_examples_min: int
    """Fewest test items of the primary gate."""
    gates: Sequence[GateBase]
    parity: ParityRule
    withhold: str | None = None
    """Reason why this profile gives no verdict, or None."""
    looks: LooksConfig | None = None
    """Looks at which the mission may be promoted early; None decides at the planned seeds."""
    futility: FutilityConfig | None = None
    """When the mission is stopped because it can hardly pass any more; None: never."""
    clusters: str = ""
    """What the test items are clustered by, or `independent`; empty: not declared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionVerdict:
    """What is known about one mission."""

    mission: str
    verdict: Verdict
    reasons: tuple[str, ...]
    hypothesis: str
    estimand: str
    treatment: str
    """Treatment arm of the primary gate."""
    control: str
    p_value: float | None
    """Intersection-union over the required gates that test something."""
    gates: tuple[GateResult, ...]
    parity: tuple[ParityRow, ...]
    seeds: tuple[int, ...]
    num_examples: int
    """Test items of the primary gate."""
    level: float
    resamples: int
    rng_seed: int
    scores_digest: str
    leak_report: Mapping[str, int] | None
    """Leak check -> items found; None: no leak check was handed in."""
    family: FamilyResult | None = None
    stopped: EarlyStop | None = None
    """Set where the mission ended before its planned seeds; `seeds` are those it rests on."""
    look: LookStanding | None = None
    """Set where the mission file asks for looks: the level and p-value that hold over them."""

    @property
    def primary(self) -> GateResult:
        """The gate that the mission is about."""
        return next(gate for gate in self.gates if gate.primary)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; figures that do not exist are null."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MissionVerdict:
        return from_plain(cls, data)


def judge(
    plan: MissionPlan,
    scores: ScoreTable,
    costs: Mapping[str, ArmCost],
    *,
    rng_seed: int,
    leak_report: Mapping[str, int] | None = None,
    invalid: Sequence[str] = (),
    level: float = 0.95,
    resamples: int = 10_000,
    stopped: EarlyStop | None = None,
) -> MissionVerdict:
    """Evaluates all gates of a mission and says what follows.

    Args:
        stopped: the mission ended early; only the scores of its seeds are looked at.
        leak_report: leak check -> leaked items found; anything but zeros is INVALID.
        invalid: further reasons to believe nothing, such as a dirty manifest.
        level: level of the two-sided intervals; gates test one-sided at (1 - level) / 2.

    Raises:
        StatsError: the plan itself is wrong (no or two primary gates, gate ids that repeat), or
            `stopped` does not fit it.
    """
    primary = _check(plan)
    seeds = _seeds(plan, stopped)
    alpha = (1.0 - level) / 2.0
    if stopped is not None:
        scores = scores.select(seeds=seeds)
    if plan.looks is not None and (stopped is None or stopped.kind == "success"):
        level = 1.0 - 2.0 * plan.looks.nominal(len(seeds), alpha)
    context = GateContext(
        scores=scores,
        resampler=CrossedResamples(rng_seed=rng_seed, resamples=resamples),
        seeds=seeds,
        costs=costs,
        level=level,
    )
    gates = tuple(evaluate_gate(config, context) for config in plan.gates)
    p_value = _intersection_union(gates)
    look: LookStanding | None = None
    if plan.looks is not None and (stopped is None or stopped.kind == "success"):
        look = standing(plan.looks, gates, len(seeds), alpha=alpha)
        p_value = look.overall_p
    parity = parity_rows(plan.parity, costs)
    main = next(gate for gate in gates if gate.gate == primary.id)
    problems = [
        *invalid,
        *_leaks(leak_report),
        *_clusters(plan.clusters, gates, main),
        *(row.problem() for row in parity if row.checked and not row.ok),
    ]
    if main.decision != "INVALID" and 0 < main.num_examples < plan.num_examples_min:
        problems.append(
            f"{main.num_examples} test items, but the plan fixed at least {plan.num_examples_min}"
        )
    verdict, reasons = _combine(gates, problems)
    if stopped is not None and stopped.kind == "futility":
        verdict = "INVALID" if problems else "INCONCLUSIVE"
        reasons = (*problems, stopped.text)
        gates = tuple(_as_interim(gate, stopped) for gate in gates)
        p_value = None
    elif stopped is not None and verdict != "INVALID":
        if verdict != "PROMOTE" or look is None or not look.crossed:
            raise StatsError(
                f"Mission {plan.mission!r} was ended at {len(seeds)} seeds as decided, but its "
                "gates do not pass at that look's level."
            )
        reasons = (stopped.text, *reasons)
    if plan.withhold is not None:
        reasons = (f"verdict withheld: {plan.withhold}", *reasons)
        verdict = "WITHHELD"
    return MissionVerdict(
        mission=plan.mission,
        verdict=verdict,
        reasons=reasons,
        hypothesis=plan.hypothesis,
        estimand=plan.estimand,
        treatment=primary.treatment,
        control=str(getattr(primary, "versus", "")),
        p_value=p_value,
        gates=gates,
        parity=parity,
        seeds=seeds,
        num_examples=main.num_examples,
        level=level,
        resamples=resamples,
        rng_seed=rng_seed,
        scores_digest=scores.digest(),
        leak_report=None if leak_report is None else dict(sorted(leak_report.items())),
        stopped=stopped,
        look=look,
    )


def judge_family(verdicts: Sequence[MissionVerdict], q: float = 0.05) -> list[MissionVerdict]:
    """Applies Benjamini-Hochberg over arms x missions and adds BY and FCR-adjusted intervals.

    One p a verdict; several treatment arms of a mission are several verdicts. All that were to
    get a verdict count, INVALID ones with p = 1: the family is what was planned, not what went
    well. Withheld missions claim nothing and stand outside. A mission whose gates pass but whose
    adjusted p-value exceeds `q` becomes INCONCLUSIVE.
    """
    places = [_place(verdict) for verdict in verdicts]
    if len(set(places)) != len(places):
        raise StatsError(f"A mission's arm stands twice in the family: {sorted(places)}.")
    family = sorted((v for v in verdicts if v.verdict != "WITHHELD"), key=_place)
    if not family:
        return list(verdicts)
    found = standings(
        [_place(verdict) for verdict in family],
        [1.0 if v.p_value is None or v.verdict == "INVALID" else v.p_value for v in family],
        [verdict.primary for verdict in family],
        q=q,
    )
    judged: dict[tuple[str, str], MissionVerdict] = {}
    for verdict, place in zip(family, found, strict=True):
        final: Verdict = verdict.verdict
        reasons = verdict.reasons
        if final == "PROMOTE" and not place.selected:
            final = "INCONCLUSIVE"
            reasons = (
                f"all required gates pass, but p = {place.p_bh:.3g} after Benjamini-Hochberg "
                f"over {counted(place.family)} exceeds q = {q:g}",
                *_what_would_select(verdict, place),
                *reasons,
            )
        judged[_place(verdict)] = replace(verdict, verdict=final, reasons=reasons, family=place)
    return [judged.get(_place(verdict), verdict) for verdict in verdicts]


def _what_would_select(verdict: MissionVerdict, place: FamilyResult) -> tuple[str, ...]:
    """One line for every required gate whose own p-value is not small enough for the family."""
    needed = place.needed_p or 0.0
    lines = (
        what_would_select(gate, place)
        for gate in verdict.gates
        if gate.required and gate.p_value is not None and gate.p_value > needed
    )
    return tuple(line for line in lines if line)


def _place(verdict: MissionVerdict) -> tuple[str, str]:
    return verdict.mission, verdict.treatment


def _check(plan: MissionPlan) -> GateBase:
    ids = [gate.id for gate in plan.gates]
    if len(set(ids)) != len(ids):
        raise StatsError(f"Mission {plan.mission!r}: gate ids repeat: {ids}.")
    primaries = [gate for gate in plan.gates if gate.primary]
    if len(primaries) != 1:
        raise StatsError(
            f"Mission {plan.mission!r}: exactly one gate must be primary, got "
            f"{[gate.id for gate in primaries]}."
        )
    if not primaries[0].required:
        raise StatsError(f"Mission {plan.mission!r}: the primary gate must be required.")
    return primaries[0]


def _seeds(plan: MissionPlan, stopped: EarlyStop | None) -> tuple[int, ...]:
    """The seeds that the verdict rests on: all of the plan, or its first ones."""
    if stopped is None:
        return tuple(sorted(plan.seeds))
    if tuple(plan.seeds[: len(stopped.seeds)]) != stopped.seeds or stopped.planned != len(
        plan.seeds
    ):
        raise StatsError(
            f"Mission {plan.mission!r} was stopped on seeds {list(stopped.seeds)} of "
            f"{stopped.planned}; they are not the first of the plan's {list(plan.seeds)}."
        )
    if stopped.kind == "success" and plan.looks is None:
        raise StatsError(f"Mission {plan.mission!r}: its plan has no looks to be decided at early.")
    return tuple(sorted(stopped.seeds))


def _as_interim(gate: GateResult, stopped: EarlyStop) -> GateResult:
    """A tested gate of a stopped mission: its figures stand, its decision does not."""
    if gate.decision == "INVALID" or gate.p_value is None:
        return gate
    return replace(
        gate,
        decision="INCONCLUSIVE",
        reason=f"{LABEL} after {len(stopped.seeds)} of {stopped.planned} seeds: {gate.reason}",
        p_value=None,
        would_decide=None,
    )


def _leaks(leak_report: Mapping[str, int] | None) -> list[str]:
    return [
        f"leak: check {name!r} found {count} test items among the training data"
        for name, count in sorted((leak_report or {}).items())
        if count
    ]


def _clusters(declared: str, gates: Sequence[GateResult], main: GateResult) -> list[str]:
    """Where the scores come in other units than the plan declared."""
    for gate in gates if declared == INDEPENDENT else ():
        if gate.num_units < gate.num_examples:
            return [
                f"clusters: the plan says items are independent, but gate {gate.gate} has "
                f"{gate.num_examples} items in {gate.num_units} clusters"
            ]
    if declared not in ("", INDEPENDENT) and 0 < main.num_examples == main.num_units:
        return [
            f"clusters: the plan says items come by {declared}, but every item of the primary "
            "gate stands alone"
        ]
    return []


def _combine(
    gates: Sequence[GateResult], problems: Sequence[str]
) -> tuple[Verdict, tuple[str, ...]]:
    required = [gate for gate in gates if gate.required]
    by_decision = {
        decision: [f"{gate.gate}: {gate.reason}" for gate in required if gate.decision == decision]
        for decision in ("INVALID", "FAIL", "INCONCLUSIVE", "PASS")
    }
    if problems or by_decision["INVALID"]:
        return "INVALID", (*problems, *by_decision["INVALID"])
    if by_decision["FAIL"]:
        return "REJECT", tuple(by_decision["FAIL"])
    if by_decision["INCONCLUSIVE"]:
        return "INCONCLUSIVE", tuple(by_decision["INCONCLUSIVE"])
    return "PROMOTE", tuple(by_decision["PASS"])


def _intersection_union(gates: Sequence[GateResult]) -> float | None:
    """Largest p-value of the required gates; None if one that tests has none."""
    required = [gate for gate in gates if gate.required]
    if any(gate.decision == "INVALID" for gate in required):
        return None
    known = [gate.p_value for gate in required if gate.p_value is not None]
    return max(known) if known else None
