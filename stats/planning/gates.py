"""Plans one gate: what its grid can detect, whether that decides it, and the cheapest that would.

The variance components come from a pilot: any scores of the same gate, evaluated as the gate
itself is, whatever its kind. Without a pilot, gates on differences of scores in [0, 1] are
planned with the stated `PLANNING_VALUES` where items stand alone; the others cannot be planned,
and that is said. Knows neither missions nor where a pilot is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stats.bootstrap import CrossedResamples
from stats.costs import ArmCost
from stats.gates import GateBase, GateContext, evaluate_gate
from stats.plain import to_plain
from stats.planning.rules import (
    PassRule,
    pass_power,
    refute_power,
    rule_of,
    true_value_for,
)
from stats.power import RUN_COST_IN_EXAMPLES, cheapest_grid, expected_error, mde
from stats.result import GateResult
from stats.scores import ScoreTable
from stats.twoway import VarianceComponents

PLANNING_VALUES = VarianceComponents(seed=0.007**2, example=0.024, residual=0.20)
"""Paired differences of binary scores: seed SD 0.7 pp, and cells of SD 47 pp (about 22 % of the
pairs disagree), a ninth of that variance between examples. The detectable effects at 80 % power
are 2.7 pp for 5 seeds x 1,000 examples, 1.6 for 5 x 5,000, 1.1 for 10 x 5,000, 1.7 for 20 x 1,000.
"""

PLANNED_FROM = "no pilot: stated planning values for binary scores (seed SD 0.7 pp, cell SD 47 pp)"

PILOT_RESAMPLES = 200
"""A pilot's bootstrap intervals are not read; its components are closed forms."""

Answer = Literal["yes", "no", "unknown", "no test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a campaign is planned to spend, and what more would cost."""

    seeds: int
    examples: int
    """Test items of the mission; a gate may use all, some, or clusters of them."""
    run_cost: float = RUN_COST_IN_EXAMPLES
    """Training one run costs as much as evaluating this many test items."""
    clusters: str = ""
    """What test items come by, as declared; empty or `independent`: each stands alone."""

    @property
    def clustered(self) -> bool:
        return self.clusters not in ("", "independent")

    @property
    def testable(self) -> bool:
        """One seed has no variance between seeds: nothing can be detected and nothing tested."""
        return self.seeds >= 2

    @property
    def size(self) -> str:
        return f"{self.seeds} seed{'s' * (self.seeds != 1)} x {self.examples:,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """A gate as earlier scores evaluate it."""

    source: str
    """Where the scores come from, in words."""
    gate: GateResult
    examples: int
    """Test items of the mission that gave `gate.num_units` units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GatePlan:
    """What a planned grid can say about one gate."""

    gate: str
    kind: str
    metric: str
    required: bool
    primary: bool
    scale: Literal["fraction", "raw"]
    seeds: int
    examples: int
    units: int | None
    """Units of this gate at the planned size: clusters where they are declared."""
    components: VarianceComponents | None
    source: str
    """Where the components come from, in words."""
    margins: tuple[float, ...]
    mde: float | None
    """Smallest distance from the margin that the test finds with this power."""
    alternative: float | None
    """The true value that the plan assumes."""
    alternative_is: str
    test_power: float | None
    """Probability that the interval clears the margin if the alternative is true."""
    pass_power: float | None
    """The same for the whole rule, `min_point` included."""
    refute_power: float | None
    """Probability of a FAIL if the alternative is true."""
    needs_true: float | None
    """Smallest true value that passes the whole rule with this power at the planned size."""
    power: float
    decides: Answer
    cheapest_seeds: int | None
    cheapest_examples: int | None
    run_cost: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dict(to_plain(self))


def pilot_of(
    config: GateBase,
    scores: ScoreTable,
    *,
    source: str,
    examples: int,
    costs: Mapping[str, ArmCost] | None = None,
) -> Pilot:
    """Evaluates a gate on earlier scores, whatever seeds they have."""
    context = GateContext(
        scores=scores,
        resampler=CrossedResamples(rng_seed=0, resamples=PILOT_RESAMPLES),
        costs=costs or {},
    )
    return Pilot(source=source, gate=evaluate_gate(config, context), examples=examples)


def plan_gate(
    config: GateBase,
    budget: Budget,
    pilot: Pilot | None,
    *,
    power: float = 0.8,
    alpha: float = 0.025,
) -> GatePlan:
    """Whether this budget can decide the gate, and the cheapest that could."""
    if pilot is None:
        return _without_pilot(config, budget, power, alpha)
    gate = pilot.gate
    rule = rule_of(gate)
    if gate.estimate is not None and gate.p_value is None and gate.standard_error:
        why = "the gate compares its figure alone: no test, so no power"
        return _unplanned(config, budget, power, pilot.source, "no test", why)
    if rule is None or gate.components is None or not gate.num_units:
        exact = gate.decision in ("PASS", "FAIL") and gate.p_value is None
        answer: Answer = "no test" if exact else "unknown"
        why = "decided without a test" if exact else f"the pilot gives no variance: {gate.reason}"
        return _unplanned(config, budget, power, pilot.source, answer, why)
    if not _total(gate.components):
        why = "nothing varied in the pilot, so no error can be planned"
        return _unplanned(config, budget, power, pilot.source, "unknown", why)
    alternative, words = _alternative(gate)
    return _plan(
        config,
        budget,
        components=gate.components,
        units_per_example=gate.num_units / pilot.examples,
        rule=rule,
        scale=gate.scale,
        alternative=alternative,
        alternative_is=words,
        source=pilot.source,
        power=power,
        alpha=alpha,
    )


def _plan(
    config: GateBase,
    budget: Budget,
    *,
    components: VarianceComponents,
    units_per_example: float,
    rule: PassRule,
    scale: Literal["fraction", "raw"],
    alternative: float,
    alternative_is: str,
    source: str,
    power: float,
    alpha: float,
) -> GatePlan:
    units = max(2, round(budget.examples * units_per_example))
    wanted = rule.passing(alternative)

    def decided(num_seeds: int, num_units: int) -> bool:
        grid = expected_error(components, num_seeds, num_units)
        if wanted:
            return pass_power(rule, alternative, *grid, alpha=alpha, with_point=False) >= power
        return refute_power(rule, alternative, *grid, alpha=alpha) >= power

    best: tuple[int, int] | None = None
    if alternative != rule.nearest(alternative):
        best = cheapest_grid(decided, run_cost=budget.run_cost * units_per_example)
    examples = math.ceil(best[1] / units_per_example) if best else None
    plan = replace(
        _unplanned(config, budget, power, source, "no", _one_seed(budget)),
        scale=scale,
        units=units,
        components=components,
        margins=tuple(m for m in (rule.lower, rule.upper) if m is not None),
        alternative=alternative,
        alternative_is=alternative_is,
        cheapest_seeds=best[0] if best else None,
        cheapest_examples=examples,
    )
    if not budget.testable:
        return replace(plan, text=plan.text + _sizes(plan))
    error, df = expected_error(components, budget.seeds, units)
    tested = pass_power(rule, alternative, error, df, alpha=alpha, with_point=False)
    refuted = refute_power(rule, alternative, error, df, alpha=alpha)
    passed = pass_power(rule, alternative, error, df, alpha=alpha)
    found = mde(components, budget.seeds, units, alpha=alpha, power=power)
    plan = replace(
        plan,
        mde=found,
        test_power=tested,
        pass_power=passed,
        refute_power=refuted,
        needs_true=true_value_for(rule, error, df, power=power, alpha=alpha),
        decides="yes" if max(tested, refuted) >= power else "no",
    )
    text = _text(budget, scale, found, alternative, alternative_is, tested, passed, refuted)
    return replace(plan, text=text + _sizes(plan))


def _alternative(gate: GateResult) -> tuple[float, str]:
    """The true value to plan for, and what it is."""
    assumed = gate.assumed if gate.assumed is not None else gate.estimate
    assert assumed is not None
    if assumed == gate.estimate:
        return assumed, "the pilot's estimate"
    if assumed in gate.margins:
        return assumed, "the gate's min_point"
    return assumed, "no true difference"


def _without_pilot(config: GateBase, budget: Budget, power: float, alpha: float) -> GatePlan:
    if config.kind == "exact" or getattr(config, "decide_on", "") == "point":
        return _unplanned(config, budget, power, "", "no test", "decided without a test")
    if budget.clustered and not budget.testable:
        return _unplanned(config, budget, power, "no pilot", "no", _one_seed(budget))
    if budget.clustered:
        # How many clusters there are and how much of the variance they share is not known.
        why = f"unknown: items come by {budget.clusters}, a pilot is needed"
        return _unplanned(config, budget, power, "no pilot", "unknown", why)
    rule: PassRule | None = None
    alternative, words = 0.0, ""
    if config.kind == "superiority":
        lower = float(getattr(config, "min_lower", 0.0))
        point = float(getattr(config, "min_point", 0.0))
        if point <= lower:
            return _no_alternative(config, budget, lower, power, alpha)
        rule = PassRule(lower=lower, point=point)
        alternative, words = point, "the gate's min_point"
    elif config.kind == "non_inferiority" and getattr(config, "scale", "") == "absolute":
        rule = PassRule(lower=-float(getattr(config, "margin", 0.0)))
        words = "no true difference"
    if rule is None and not budget.testable:
        return _unplanned(config, budget, power, "no pilot", "no", _one_seed(budget))
    if rule is None:
        why = "no pilot: nothing is known of this gate's variance or size"
        return _unplanned(config, budget, power, "no pilot", "unknown", why)
    return _plan(
        config,
        budget,
        components=PLANNING_VALUES,
        units_per_example=1.0,
        rule=rule,
        scale="fraction",
        alternative=alternative,
        alternative_is=words,
        source=PLANNED_FROM,
        power=power,
        alpha=alpha,
    )


def _no_alternative(
    config: GateBase, budget: Budget, lower: float, power: float, alpha: float
) -> GatePlan:
    """A gate that states no effect to look for: what it would detect is all that can be said."""
    units = max(2, budget.examples)
    plan = replace(
        _unplanned(config, budget, power, PLANNED_FROM, "no", _one_seed(budget)),
        scale="fraction",
        units=units,
        components=PLANNING_VALUES,
        margins=(lower,),
    )
    if not budget.testable:
        return plan
    found = mde(PLANNING_VALUES, budget.seeds, units, alpha=alpha, power=power)
    return replace(
        plan,
        mde=found,
        decides="unknown",
        text=f"{budget.size}: detects {100 * found:.2g} pp beyond the margin if the scores are "
        "binary; the gate states no min_point to plan for",
    )


def _unplanned(
    config: GateBase, budget: Budget, power: float, source: str, answer: Answer, why: str
) -> GatePlan:
    return GatePlan(
        **_identity(config),
        scale="raw",
        seeds=budget.seeds,
        examples=budget.examples,
        units=None,
        components=None,
        source=source,
        margins=(),
        mde=None,
        alternative=None,
        alternative_is="",
        test_power=None,
        pass_power=None,
        refute_power=None,
        needs_true=None,
        power=power,
        decides=answer,
        cheapest_seeds=None,
        cheapest_examples=None,
        run_cost=budget.run_cost,
        text=why,
    )


def _identity(config: GateBase) -> dict[str, Any]:
    return {
        "gate": config.id,
        "kind": config.kind,
        "metric": config.metric,
        "required": config.required,
        "primary": config.primary,
    }


def _total(parts: VarianceComponents) -> float:
    return parts.seed + parts.example + parts.residual


def _text(
    budget: Budget,
    scale: str,
    found: float,
    alternative: float,
    alternative_is: str,
    tested: float,
    passed: float,
    refuted: float,
) -> str:
    factor, unit = (100.0, " pp") if scale == "fraction" else (1.0, "")
    text = (
        f"{budget.size}: detects {factor * found:.2g}{unit} beyond the margin; "
        f"if the true value is {factor * alternative:+.3g}{unit} ({alternative_is}) "
        f"it clears the margin with {tested:.0%}"
    )
    if passed < tested - 0.005:
        text += f" and passes the whole rule with {passed:.0%}"
    if refuted > 0.05:
        text += f", is refuted with {refuted:.0%}"
    return text


def _one_seed(budget: Budget) -> str:
    return f"{budget.size}: one seed cannot be tested, its variance between seeds is unknown"


def _sizes(plan: GatePlan) -> str:
    if plan.cheapest_seeds is None or plan.cheapest_examples is None:
        return "" if plan.decides == "yes" else "; no size up to the search limit decides it"
    return f"; cheapest that decides: {plan.cheapest_seeds} x {plan.cheapest_examples:,}"


def sizes_to_draw(seeds: int, units: int) -> tuple[Sequence[int], Sequence[int]]:
    """Seeds and units for a power curve around a planned size."""
    top = max(10, 2 * seeds)
    return tuple(range(2, top + 1)), tuple(sorted({max(2, units // 4), units, 4 * units}))
