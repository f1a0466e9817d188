"""Statistics for comparing trained methods over seeds and examples.

Knows numpy and scipy, pandas at its edge, and no model library. What stands in `__all__` is the
public surface; each name is loaded when it is first asked for, so that reading one small module
does not cost the import of pandas. `stats.report` (figures and pages) is imported by its own name.

    import stats
    result = stats.compare(frame, "new", "old", metric="em", min_point=0.015)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stats.checkpoint import CheckpointInterval, checkpoint_interval
    from stats.comparison import Comparison, compare
    from stats.costs import ArmCost
    from stats.errors import StatsError
    from stats.fdr import benjamini_hochberg, benjamini_yekutieli
    from stats.gates import gate_kinds, parse_gate
    from stats.integrity import manifest_digest
    from stats.parity import ParityRule
    from stats.result import GateResult
    from stats.scores import ScoreTable
    from stats.tables import as_scores
    from stats.twoway import two_way
    from stats.verdict import MissionPlan, MissionVerdict, judge, judge_family

_HOMES = {
    "ArmCost": "costs",
    "CheckpointInterval": "checkpoint",
    "Comparison": "comparison",
    "GateResult": "result",
    "MissionPlan": "verdict",
    "MissionVerdict": "verdict",
    "ParityRule": "parity",
    "ScoreTable": "scores",
    "StatsError": "errors",
    "as_scores": "tables",
    "benjamini_hochberg": "fdr",
    "benjamini_yekutieli": "fdr",
    "checkpoint_interval": "checkpoint",
    "compare": "comparison",
    "gate_kinds": "gates",
    "judge": "verdict",
    "judge_family": "verdict",
    "manifest_digest": "integrity",
    "parse_gate": "gates",
    "two_way": "twoway",
}

__all__ = [
    "ArmCost",
    "CheckpointInterval",
    "Comparison",
    "GateResult",
    "MissionPlan",
    "MissionVerdict",
    "ParityRule",
    "ScoreTable",
    "StatsError",
    "as_scores",
    "benjamini_hochberg",
    "benjamini_yekutieli",
    "checkpoint_interval",
    "compare",
    "gate_kinds",
    "judge",
    "judge_family",
    "manifest_digest",
    "parse_gate",
    "two_way",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stats' has no attribute {name!r}")
    return getattr(importlib.import_module(f"stats.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
