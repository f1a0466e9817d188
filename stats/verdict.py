"""From scores to a verdict: all gates of a mission, parity, leaks; then the family of missions.

    INVALID       the comparison cannot be believed: parity broken, cells missing, a leak, or
                  zero variation
    REJECT        a required gate is shown not to reach its margin (bound beyond it)
    PROMOTE       all required gates pass, and the mission survives Benjamini-Hochberg
    INCONCLUSIVE  neither: the margin lies inside an interval
    WITHHELD      the profile gives no verdict (a smoke run); the figures are shown all the same

Inside a mission no correction is needed: it passes only when all required gates pass, so its
p-value is the largest of theirs (intersection-union). Over missions `judge_family` applies
Benjamini-Hochberg. Knows neither models nor the fleet; the result depends on the content of its
arguments alone, not on the order of rows or arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.special import stdtrit

from stats.bootstrap import CrossedResamples
from stats.costs import ArmCost
from stats.errors import StatsError
from stats.fdr import benjamini_hochberg, benjamini_yekutieli, fcr_level
from stats.gates import GateBase, GateContext, evaluate_gate
from stats.parity import ParityRow, ParityRule, parity_rows
from stats.plain import from_plain, to_plain
from stats.result import GateResult, Interval
from stats.scores import ScoreTable

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
    clusters: str = ""
    """What the test items are clustered by, or `independent`; empty: not declared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyResult:
    """Where a mission stands among all that were tested together."""

    family: tuple[str, ...]
    """Missions of the family."""
    q: float
    p_bh: float
    """Benjamini-Hochberg adjusted."""
    p_by: float
    """Benjamini-Yekutieli adjusted: a sensitivity check under any dependence."""
    selected: bool
    """p_bh <= q."""
    fcr_interval: Interval | None
    """Interval of the primary gate at the false-coverage-adjusted level; selected ones only."""


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
) -> MissionVerdict:
    """Evaluates all gates of a mission and says what follows.

    Args:
        leak_report: leak check -> leaked items found; anything but zeros is INVALID.
        invalid: further reasons to believe nothing, such as a dirty manifest.
        level: level of the two-sided intervals; gates test one-sided at (1 - level) / 2.

    Raises:
        StatsError: the plan itself is wrong (no or two primary gates, gate ids that repeat).
    """
    primary = _check(plan)
    context = GateContext(
        scores=scores,
        resampler=CrossedResamples(rng_seed=rng_seed, resamples=resamples),
        seeds=tuple(sorted(plan.seeds)),
        costs=costs,
        level=level,
    )
    gates = tuple(evaluate_gate(config, context) for config in plan.gates)
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
        p_value=_intersection_union(gates),
        gates=gates,
        parity=parity,
        seeds=tuple(sorted(plan.seeds)),
        num_examples=main.num_examples,
        level=level,
        resamples=resamples,
        rng_seed=rng_seed,
        scores_digest=scores.digest(),
        leak_report=None if leak_report is None else dict(sorted(leak_report.items())),
    )


def judge_family(verdicts: Sequence[MissionVerdict], q: float = 0.05) -> list[MissionVerdict]:
    """Applies Benjamini-Hochberg over the missions and adds BY and FCR-adjusted intervals.

    Every mission that was to get a verdict counts, INVALID ones with p = 1: the family is what
    was planned, not what went well. Withheld missions claim nothing and stand outside. A mission
    whose gates pass but whose adjusted p-value exceeds `q` becomes INCONCLUSIVE.
    """
    names = [verdict.mission for verdict in verdicts]
    if len(set(names)) != len(names):
        raise StatsError(f"A mission stands twice in the family: {sorted(names)}.")
    family = sorted((v for v in verdicts if v.verdict != "WITHHELD"), key=lambda v: v.mission)
    if not family:
        return list(verdicts)
    p = [1.0 if v.p_value is None or v.verdict == "INVALID" else v.p_value for v in family]
    adjusted, dependent = benjamini_hochberg(p), benjamini_yekutieli(p)
    selected = [bool(value <= q) for value in adjusted]
    fcr = fcr_level(sum(selected), len(family), q)
    members = tuple(verdict.mission for verdict in family)
    judged: dict[str, MissionVerdict] = {}
    for at, verdict in enumerate(family):
        standing = FamilyResult(
            family=members,
            q=q,
            p_bh=float(adjusted[at]),
            p_by=float(dependent[at]),
            selected=selected[at],
            fcr_interval=_at_level(verdict.primary, fcr) if selected[at] else None,
        )
        final: Verdict = verdict.verdict
        reasons = verdict.reasons
        if final == "PROMOTE" and not selected[at]:
            final = "INCONCLUSIVE"
            reasons = (
                f"all required gates pass, but p = {standing.p_bh:.3g} after Benjamini-Hochberg "
                f"over {len(family)} missions exceeds q = {q:g}",
                *reasons,
            )
        judged[verdict.mission] = replace(verdict, verdict=final, reasons=reasons, family=standing)
    return [judged.get(verdict.mission, verdict) for verdict in verdicts]


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


def _at_level(gate: GateResult, level: float) -> Interval | None:
    if gate.estimate is None or not gate.standard_error or gate.df is None:
        return None
    half = float(stdtrit(gate.df, 0.5 + level / 2)) * gate.standard_error
    return Interval(
        low=gate.estimate - half,
        high=gate.estimate + half,
        level=level,
        method="two-way Satterthwaite t, FCR-adjusted",
    )
