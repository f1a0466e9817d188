"""One case a gate kind: a configuration, and scores under which it passes, fails or stays open.

A new kind needs a case here; the contract tests then cover it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stats.bootstrap import CrossedResamples
from stats.costs import ArmCost
from stats.gates import GateBase, GateContext, evaluate_gate, parse_gate
from stats.result import GateResult
from stats.scores import ScoreTable

Grids = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]
"""Metric -> arm -> seeds x examples."""

SHAPE = (4, 24)


@dataclass(frozen=True, kw_only=True)
class GateCase:
    """How one kind is put to the test."""

    settings: Mapping[str, Any]
    grids: Callable[[float, np.random.Generator], Grids]
    """Scores with an effect of this size."""
    effects: Mapping[str, float]
    """Decision -> effect under which it is reached."""
    margins: tuple[str, ...]
    """What the criterion must name."""
    mirror: Mapping[str, Any] | None = None
    """Settings that ask the same of sign-turned scores; None where scores have no sign."""
    swapped: bool = False
    """The mirror also swaps the two arms instead of turning the scores' signs."""
    costs: Callable[[float], Mapping[str, ArmCost]] = field(default=lambda effect: {})
    margin_values: tuple[float, ...] = ()

    def gate(self, **changes: Any) -> GateBase:
        return parse_gate({**self.settings, **changes})

    def table(self, decision: str, rng_seed: int = 0) -> ScoreTable:
        return table_of(self.grids(self.effects[decision], np.random.default_rng(rng_seed)))


def table_of(grids: Grids, clusters: list[str] | None = None) -> ScoreTable:
    frames = []
    for metric, arms in grids.items():
        for arm, values_SN in arms.items():
            seeds, examples = np.indices(values_SN.shape)
            names = [f"e{i:03d}" for i in examples.ravel()]
            frames.append(
                pd.DataFrame(
                    {
                        "arm": arm,
                        "seed": seeds.ravel(),
                        "example_id": names,
                        "cluster_id": names
                        if clusters is None
                        else [clusters[i] for i in examples.ravel()],
                        "metric": metric,
                        "value": values_SN.ravel(),
                    }
                )
            )
    return ScoreTable(pd.concat(frames, ignore_index=True))


def run(
    gate: GateBase, scores: ScoreTable, costs: Mapping[str, ArmCost] | None = None, resamples=60
) -> GateResult:
    context = GateContext(
        scores=scores,
        resampler=CrossedResamples(rng_seed=1, resamples=resamples),
        costs=costs or {},
    )
    return evaluate_gate(gate, context)


def pair(effect: float, rng: np.random.Generator, level: float = 2.0, sd: float = 0.2) -> Grids:
    control = level + rng.normal(size=SHAPE)
    return {"em": {"t": control + effect + sd * rng.normal(size=SHAPE), "c": control}}


def positive(effect: float, rng: np.random.Generator) -> Grids:
    control = np.exp(0.3 * rng.normal(size=SHAPE))
    return {"em": {"t": control * np.exp(effect + 0.1 * rng.normal(size=SHAPE)), "c": control}}


def one_arm(effect: float, rng: np.random.Generator) -> Grids:
    return {"em": {"t": effect + 0.3 * rng.normal(size=SHAPE)}}


def levels(effect: float, rng: np.random.Generator) -> Grids:
    base = rng.normal(size=SHAPE)
    return {
        f"em@{length}": {
            arm: base + own * effect * at + 0.2 * rng.normal(size=SHAPE)
            for arm, own in (("t", 1.0), ("c", 0.0))
        }
        for at, length in enumerate(("512", "2k", "8k", "32k"))
    }


def times(effect: float, rng: np.random.Generator) -> Grids:
    item = rng.exponential(400, size=(1, SHAPE[1]))
    raw = {
        arm: item * scale * rng.lognormal(0, 0.3, size=SHAPE)
        for arm, scale in (("t", effect), ("c", 1.0))
    }
    return {
        "em": {arm: np.minimum(time, 1000.0) for arm, time in raw.items()},
        "em_event": {arm: (time < 1000).astype(float) for arm, time in raw.items()},
    }


def sizes(effect: float) -> dict[str, ArmCost]:
    return {
        arm: ArmCost(arm=arm, trainable_params=n, adapter_params=n, forward_flops=1.0)
        for arm, n in (("t", round(1000 * (1 + effect))), ("c", 1000))
    }


BASE = {"id": "g", "metric": "em", "treatment": "t"}
PAIR = {**BASE, "versus": "c"}
THREE = {"PASS": 0.5, "FAIL": -0.5, "INCONCLUSIVE": 0.03}
LENGTHS = ["em@512", "em@2k", "em@8k", "em@32k"]

CASES: dict[str, GateCase] = {
    "superiority": GateCase(
        settings={**PAIR, "kind": "superiority", "min_point": 0.1, "min_lower": 0.015},
        grids=pair,
        effects={"PASS": 0.5, "FAIL": -0.5, "INCONCLUSIVE": 0.09},
        margins=("0.1", "0.015"),
        mirror={"higher_is_better": False},
    ),
    "non_inferiority": GateCase(
        settings={**PAIR, "kind": "non_inferiority", "margin": 0.05},
        grids=pair,
        effects={"PASS": 0.5, "FAIL": -0.5, "INCONCLUSIVE": -0.04},
        margins=("-0.05", "absolute"),
        mirror={"higher_is_better": False},
    ),
    "equivalence": GateCase(
        settings={**PAIR, "kind": "equivalence", "log_ratio_margin": 0.1398},
        grids=positive,
        effects={"PASS": 0.0, "FAIL": 0.4, "INCONCLUSIVE": 0.13},
        margins=("0.870", "1.150"),
        mirror={"treatment": "c", "versus": "t"},
        swapped=True,
    ),
    "bound": GateCase(
        settings={**BASE, "kind": "bound", "upper": 1.2},
        grids=one_arm,
        effects={"PASS": 0.5, "FAIL": 2.0, "INCONCLUSIVE": 1.18},
        margins=("1.2",),
        mirror={"upper": None, "lower": -1.2},
    ),
    "contrast": GateCase(
        settings={**PAIR, "kind": "contrast", "ratio": 0.7},
        grids=positive,
        effects={"PASS": -1.0, "FAIL": 0.5, "INCONCLUSIVE": -0.35},
        margins=("30%",),
    ),
    "monotone": GateCase(
        settings={**BASE, "kind": "monotone", "metrics": LENGTHS, "direction": "increasing"},
        grids=levels,
        effects={"PASS": 0.5, "FAIL": -0.5, "INCONCLUSIVE": 0.01},
        margins=("above 0", "0.025"),
        mirror={"direction": "decreasing"},
    ),
    "slope": GateCase(
        settings={
            **PAIR,
            "kind": "slope",
            "metrics": LENGTHS,
            "min_lower": -0.01,
        },
        grids=levels,
        effects={"PASS": 0.5, "FAIL": -0.5, "INCONCLUSIVE": 0.0},
        margins=("-0.01", "doubling"),
        mirror={"higher_is_better": False},
    ),
    "time_to_event": GateCase(
        settings={**PAIR, "kind": "time_to_event", "min_lower": 2.0, "min_point": 5.0},
        grids=times,
        effects={"PASS": 0.3, "FAIL": 3.0, "INCONCLUSIVE": 0.96},
        margins=("0.025", "> 2", ">= 5"),
    ),
    "exact": GateCase(
        settings={**PAIR, "kind": "exact", "metric": "trainable_params", "tolerance": 0.035},
        grids=pair,
        effects={"PASS": 0.03, "FAIL": 0.04},
        margins=("3.5%",),
        costs=sizes,
    ),
}
