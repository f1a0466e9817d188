"""The INTERIM view: figures from the seeds that are complete so far, never a verdict.

The interval is the two-way t of the seeds so far at the usual level, right if it is looked at
once and too narrow if one waits for it to become favourable (tested after each of 5 seeds it is
wrong 13.5 % of the time). So the view holds no decision, only estimates, intervals and the chance
that each gate still passes at the planned number of seeds. Knows plans and scores, no fleet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stats.bootstrap import CrossedResamples
from stats.costs import ArmCost
from stats.errors import StatsError
from stats.gates import GateBase, GateContext, evaluate_gate
from stats.plain import from_plain, to_plain
from stats.result import GateResult
from stats.scores import ScoreTable
from stats.sequential.futility import FutilityConfig, GateChance, gate_chance, hopeless
from stats.sequential.looks import LooksConfig, standing
from stats.sequential.stop import EarlyStop

LABEL = "INTERIM"
RESAMPLES = 20
"""The view shows no bootstrap interval; the gates compute one all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterimGate:
    """One gate so far; it has no decision."""

    gate: str
    metric: str
    treatment: str
    versus: str
    required: bool
    primary: bool
    scale: Literal["fraction", "raw"]
    estimate: float | None
    low: float | None
    """Two-way interval at `level`, not adjusted for looking; None before two seeds."""
    high: float | None
    level: float
    margins: tuple[float, ...]
    conditional_power: float | None
    """Chance of passing at the planned seeds if the rest is favourable (`futility`); None where the
    gate tests no mean."""
    information: float | None
    """Share of the planned information that is in."""
    note: str
    """Why a figure is missing; empty where none is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterimView:
    """A mission so far."""

    label: str
    """Always INTERIM."""
    mission: str
    seeds: tuple[int, ...]
    """Complete seeds, the first ones of the plan."""
    planned: int
    gates: tuple[InterimGate, ...]
    stop: EarlyStop | None
    """What the mission file's own rules (looks, futility) say, if it has any and one applies."""

    @property
    def primary(self) -> InterimGate:
        return next(gate for gate in self.gates if gate.primary)

    @property
    def text(self) -> str:
        """`INTERIM 2 of 5 seeds: +1.20 pp [-0.30, +2.70], passes at best with 42 %`.

        At best: conditional power with the rest of the seeds taken to be favourable.
        """
        gate = self.primary
        factor, unit = (100.0, " pp") if gate.scale == "fraction" else (1.0, "")
        head = f"{self.label} {len(self.seeds)} of {self.planned} seeds"
        if gate.estimate is None:
            return f"{head}: {gate.note}"
        text = f"{head}: {factor * gate.estimate:+.3g}{unit}"
        if gate.low is None or gate.high is None:
            return f"{text}, {gate.note}"
        text += f" [{factor * gate.low:+.3g}, {factor * gate.high:+.3g}]"
        if gate.conditional_power is not None:
            text += f", passes at best with {100 * gate.conditional_power:.0f} %"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, the sentence included."""
        return {**to_plain(self), "text": self.text}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InterimView:
        return from_plain(cls, {name: item for name, item in data.items() if name != "text"})


def interim_view(
    mission: str,
    gates: Sequence[GateBase],
    scores: ScoreTable,
    *,
    planned: Sequence[int],
    done: int,
    costs: Mapping[str, ArmCost] | None = None,
    futility: FutilityConfig | None = None,
    looks: LooksConfig | None = None,
    level: float = 0.95,
) -> InterimView:
    """The view after the first `done` seeds of the plan.

    Scores of later seeds are not looked at, so that the view depends on the plan and not on which
    seed happened to end first.

    Args:
        futility: rule under which the mission ends where it can hardly pass.
        looks: numbers of seeds at which it may be promoted.

    Raises:
        StatsError: `done` is not between 1 and the planned number.
    """
    if not 1 <= done <= len(planned):
        raise StatsError(f"Mission {mission!r}: {done} complete seeds of {len(planned)} planned.")
    seeds = tuple(planned[:done])
    results = _evaluate(gates, scores, seeds, costs, level)
    alpha = (1.0 - level) / 2.0
    final = alpha if looks is None else looks.nominal(len(planned), alpha)
    chances: dict[str, GateChance] = {}
    for result in results if done < len(planned) else ():
        chance = gate_chance(result, len(planned), alpha=final)
        if chance is not None:
            chances[result.gate] = chance
    stop: EarlyStop | None = None
    if looks is not None and done in looks.at_seeds[:-1]:
        at_look = _evaluate(gates, scores, seeds, costs, 1.0 - 2.0 * looks.nominal(done, alpha))
        if standing(looks, at_look, done, alpha=alpha).crossed:
            stop = EarlyStop(kind="success", seeds=seeds, planned=len(planned))
    if stop is None and futility is not None:
        required = [chances[r.gate] for r in results if r.required and r.gate in chances]
        least = hopeless(futility, required, done=done, planned=len(planned))
        if least is not None:
            stop = EarlyStop(
                kind="futility",
                seeds=seeds,
                planned=len(planned),
                gate=least.gate,
                conditional_power=least.conditional_power,
                conditional_power_min=futility.conditional_power_min,
            )
    return InterimView(
        label=LABEL,
        mission=mission,
        seeds=seeds,
        planned=len(planned),
        gates=tuple(_gate(result, chances.get(result.gate), level) for result in results),
        stop=stop,
    )


def _evaluate(
    gates: Sequence[GateBase],
    scores: ScoreTable,
    seeds: tuple[int, ...],
    costs: Mapping[str, ArmCost] | None,
    level: float,
) -> list[GateResult]:
    context = GateContext(
        scores=scores.select(seeds=seeds),
        resampler=CrossedResamples(rng_seed=0, resamples=RESAMPLES),
        seeds=tuple(sorted(seeds)),
        costs=costs or {},
        level=level,
    )
    return [evaluate_gate(config, context) for config in gates]


def _gate(result: GateResult, chance: GateChance | None, level: float) -> InterimGate:
    interval = result.interval
    return InterimGate(
        gate=result.gate,
        metric=result.metric,
        treatment=result.treatment,
        versus=result.versus,
        required=result.required,
        primary=result.primary,
        scale=result.scale,
        estimate=result.estimate,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        level=interval.level if interval else level,
        margins=result.margins,
        conditional_power=chance.conditional_power if chance else None,
        information=chance.information if chance else None,
        note=_why_none(result) if interval is None else "",
    )


def _why_none(result: GateResult) -> str:
    if len(result.seeds) < 2 and result.estimate is None:
        return "no interval from one seed"
    return result.reason
