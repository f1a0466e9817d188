"""Records of what was found: one gate's result and the pieces that it is made of.

Data only; `stats.gates` fills it, `stats.verdict` combines it, `stats.report` shows it. A figure
that could not be computed is None, never NaN and never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stats.plain import from_plain, to_plain
from stats.twoway import VarianceComponents

Decision = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
PassingSide = Literal["above", "below", "within", "equal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A two-sided interval."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapInterval:
    """A bootstrap interval with the Monte-Carlo standard error of its two limits."""

    low: float
    high: float
    low_error: float
    """Standard deviation of `low` over repetitions with other resamples."""
    high_error: float
    level: float
    resamples: int
    calibration: float
    """Two-way width over bootstrap width; 1 is a plain crossed BCa."""
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectSize:
    """A standardised mean difference, Hedges-corrected, with its interval."""

    name: Literal["d_z", "d_av", "d_pooled"]
    unit: Literal["seeds", "examples", "clusters"]
    """What varies in the denominator."""
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WouldDecide:
    """Sizes at which the gate would be decided with 80 % power if `assumed` were true."""

    assumed: float
    """True value of the estimate that the plan assumes."""
    seeds_at_these_examples: int | None
    """None: no number of seeds up to the search limit is enough."""
    examples_at_these_seeds: int | None
    cheapest_seeds: int | None
    cheapest_examples: int | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What one gate measured and decided."""

    gate: str
    kind: str
    metric: str
    treatment: str
    versus: str
    """Control arm; empty where the gate is about one arm."""
    required: bool
    primary: bool
    note: str
    decision: Decision
    reason: str
    """Why, in words."""
    estimand: str
    """The quantity that `estimate` estimates, in words."""
    criterion: str
    """The pass rule with its margins, in words."""
    scale: Literal["fraction", "raw"] = "raw"
    """fraction: the estimate reads in percentage points."""
    passing_side: PassingSide = "above"
    margins: tuple[float, ...] = ()
    """Values of the estimate at which the decision turns."""
    estimate: float | None = None
    interval: Interval | None = None
    """The interval that decided: two-way t, or an exact bound where nothing varied."""
    bootstrap: BootstrapInterval | None = None
    standard_error: float | None = None
    df: float | None = None
    p_value: float | None = None
    """One-sided; None for gates without a test (exact parity, descriptive bounds)."""
    treatment_mean: float | None = None
    control_mean: float | None = None
    mde: float | None = None
    """Smallest distance from the margin detected with 80 % power at this size."""
    would_decide: WouldDecide | None = None
    assumed: float | None = None
    """True value of the estimate that sizes are planned for: the `min_point` where there is one,
    no true difference for a margin, the estimate itself elsewhere."""
    components: VarianceComponents | None = None
    effects: tuple[EffectSize, ...] = ()
    seeds: tuple[int, ...] = ()
    seed_estimates: tuple[float, ...] = ()
    num_examples: int = 0
    num_units: int = 0
    """Clusters where they are declared, examples elsewhere."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What only this kind of gate shows; plain JSON data."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GateResult:
        return from_plain(cls, data)
