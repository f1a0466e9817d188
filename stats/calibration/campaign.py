"""Campaigns of simulated missions through the whole pipeline: table, judge, family.

A campaign is a family of five missions, one a regime, whose arms do not differ. Its twin is mixed:
in two of the five the treatment works, so that a false discovery rate has something to be a rate
of. Every mission goes through `ScoreTable`, `judge` and `judge_family` as in a launch. Only the
bootstrap draws fewer resamples, because it never decides.

Shapes: S seeds, N items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stats.calibration.regimes import ITEMS, REGIMES, SEEDS, FloatArray, Regime, draw
from stats.errors import StatsError
from stats.gates import GateBase, parse_gate
from stats.scores import ScoreTable
from stats.verdict import MissionPlan, MissionVerdict, ParityRule, judge, judge_family

RESAMPLES = 100
"""Of the bootstrap; it stands beside the deciding interval and changes no verdict."""
EFFECTS_PER_FAMILY = 2
ALPHA = 0.025
Q = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A share of repetitions with its Monte-Carlo standard error."""

    value: float
    error: float
    count: int
    """Repetitions."""

    def within(self, nominal: float, errors: float = 3.0) -> bool:
        """Not above the nominal value by more than its Monte-Carlo error allows."""
        allowed = math.sqrt(nominal * (1.0 - nominal) / self.count)
        return self.value <= nominal + errors * allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class RegimeRate:
    """False promotion in one regime."""

    regime: str
    rate: Rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What the campaigns gave."""

    campaigns: int
    seeds: int
    items: int
    resamples: int
    rng_seed: int
    false_promotion: Rate
    """Missions with identical arms whose gates pass: nominally 2.5 %, one-sided."""
    false_rejection: Rate
    """Identical arms shown to be worse than 0: nominally 2.5 %, the other side."""
    by_regime: tuple[RegimeRate, ...]
    family_of_nulls: Rate
    """Campaigns of identical arms with any promotion after Benjamini-Hochberg: at most 5 %."""
    false_discovery: Rate
    """Mean share of false ones among the promoted of mixed families: at most 5 %."""
    power: Rate
    """Missions of mixed families whose effect is real and was promoted."""

    @property
    def holds(self) -> bool:
        """Every rate keeps its nominal value within 3 Monte-Carlo standard errors."""
        return (
            self.false_promotion.within(ALPHA)
            and self.false_rejection.within(ALPHA)
            and all(item.rate.within(ALPHA) for item in self.by_regime)
            and self.family_of_nulls.within(Q)
            and self.false_discovery.within(Q)
        )


def run_campaigns(
    campaigns: int,
    *,
    rng_seed: int = 0,
    resamples: int = RESAMPLES,
    seeds: int = SEEDS,
    items: int = ITEMS,
    progress: Callable[[int], None] = lambda done: None,
) -> Figures:
    """Runs campaigns and their mixed twins; the same arguments give the same figures.

    Args:
        progress: told the number of campaigns done, after each.

    Raises:
        StatsError: fewer than 2 campaigns have no Monte-Carlo error.
    """
    if campaigns < 2:
        raise StatsError(f"campaigns: {campaigns}; expected at least 2.")
    promoted = np.zeros((campaigns, len(REGIMES)), dtype=bool)
    rejected = np.zeros((campaigns, len(REGIMES)), dtype=bool)
    any_null = np.zeros(campaigns, dtype=bool)
    false_share = np.zeros(campaigns)
    found = np.zeros((campaigns, EFFECTS_PER_FAMILY), dtype=bool)
    frames = {regime: _Frame(regime, seeds, items) for regime in REGIMES}
    for at in range(campaigns):

        def one(number: int, *, real: bool, at: int = at) -> MissionVerdict:
            rng = np.random.default_rng([rng_seed, at, number, int(real)])
            regime = REGIMES[number]
            pair = draw(
                regime, rng, effect=regime.effect if real else 0.0, seeds=seeds, items=items
            )
            plan = _plan(number, seeds)
            return judge(plan, frames[regime].table(*pair), {}, rng_seed=at, resamples=resamples)

        nulls = [one(number, real=False) for number in range(len(REGIMES))]
        promoted[at] = [verdict.verdict == "PROMOTE" for verdict in nulls]
        rejected[at] = [verdict.verdict == "REJECT" for verdict in nulls]
        any_null[at] = any(_promoted(judge_family(nulls, Q)))
        working = sorted({(at + step) % len(REGIMES) for step in (0, 2)})
        mixed = [
            one(number, real=True) if number in working else nulls[number]
            for number in range(len(REGIMES))
        ]
        after = _promoted(judge_family(mixed, Q))
        false_ones = sum(after[number] for number in range(len(REGIMES)) if number not in working)
        false_share[at] = false_ones / max(sum(after), 1)
        found[at] = [after[number] for number in working]
        progress(at + 1)
    return Figures(
        campaigns=campaigns,
        seeds=seeds,
        items=items,
        resamples=resamples,
        rng_seed=rng_seed,
        false_promotion=_share(promoted.ravel()),
        false_rejection=_share(rejected.ravel()),
        by_regime=tuple(
            RegimeRate(regime=regime.name, rate=_share(promoted[:, number]))
            for number, regime in enumerate(REGIMES)
        ),
        family_of_nulls=_share(any_null),
        false_discovery=Rate(
            value=float(false_share.mean()),
            error=float(false_share.std(ddof=1) / math.sqrt(campaigns)),
            count=campaigns,
        ),
        power=_share(found.ravel()),
    )


class _Frame:
    """The columns of one regime's tables; only the values differ from campaign to campaign."""

    def __init__(self, regime: Regime, seeds: int, items: int) -> None:
        names = [f"item{at:04d}" for at in range(items)]
        clusters = [f"document{at // regime.cluster_size:04d}" for at in range(items)]
        rows = 2 * seeds
        example = pd.Categorical(names * rows)
        self._columns = pd.DataFrame(
            {
                "arm": pd.Categorical(["left"] * (seeds * items) + ["right"] * (seeds * items)),
                "seed": np.tile(np.repeat(np.arange(seeds), items), 2),
                "example_id": example,
                "cluster_id": pd.Categorical(clusters * rows) if regime.clustered else example,
                "metric": pd.Categorical(["score"] * (rows * items)),
            }
        )

    def table(self, left_SN: FloatArray, right_SN: FloatArray) -> ScoreTable:
        values = np.concatenate([left_SN.ravel(), right_SN.ravel()])
        return ScoreTable(self._columns.assign(value=values))


def _plan(number: int, seeds: int) -> MissionPlan:
    return MissionPlan(
        mission=f"regime {number + 1}",
        hypothesis="the left arm scores higher",
        estimand="difference of two identical arms",
        seeds=tuple(range(seeds)),
        num_examples_min=1,
        gates=(_gate(),),
        parity=ParityRule(tolerance=0.05, pairs=()),
    )


def _gate() -> GateBase:
    return parse_gate(
        {
            "id": "better",
            "kind": "superiority",
            "metric": "score",
            "treatment": "left",
            "versus": "right",
            "primary": True,
        }
    )


def _promoted(verdicts: Sequence[MissionVerdict]) -> list[bool]:
    return [verdict.verdict == "PROMOTE" for verdict in verdicts]


def _share(hits: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Rate:
    value = float(hits.mean())
    return Rate(
        value=value, error=math.sqrt(max(value * (1.0 - value), 0.0) / hits.size), count=hits.size
    )
