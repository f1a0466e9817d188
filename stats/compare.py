"""One comparison without a mission: two arms on one metric, from a table of scores."""

from __future__ import annotations

from stats.bootstrap import CrossedResamples
from stats.gates import GateContext, evaluate_gate, parse_gate
from stats.result import GateResult
from stats.scores import ScoreTable


def compare(
    scores: ScoreTable,
    metric: str,
    treatment: str,
    control: str,
    *,
    min_point: float = 0.0,
    min_lower: float = 0.0,
    higher_is_better: bool = True,
    rng_seed: int = 0,
    level: float = 0.95,
    resamples: int = 10_000,
) -> GateResult:
    """Is the treatment better than the control? A superiority gate outside of any mission."""
    gate = parse_gate(
        {
            "id": f"{treatment}-vs-{control}",
            "kind": "superiority",
            "metric": metric,
            "treatment": treatment,
            "versus": control,
            "min_point": min_point,
            "min_lower": min_lower,
            "higher_is_better": higher_is_better,
            "primary": True,
        }
    )
    resampler = CrossedResamples(rng_seed=rng_seed, resamples=resamples)
    return evaluate_gate(gate, GateContext(scores=scores, resampler=resampler, level=level))
