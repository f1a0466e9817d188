"""What mission E lends to the report: accuracy against length, and a table of the arms.

Descriptive means only; gates are decided elsewhere on the per-example scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from missions.long_memory.params import LongMemoryParams
from missions.long_memory.scoring import length_name
from missions.protocol import Artifact, ReportFigure, ReportTable, Run
from stats.scores import ScoreTable

_KEPT = 0.85
"""NoLiMa's rule (2502.05167): effective length is the longest with 85 % of the short accuracy."""
_KNOWS = 0.5
"""An arm under this at the shortest length has no effective length."""


def length_figures(
    params: LongMemoryParams, arms: tuple[str, ...], scores: ScoreTable
) -> tuple[ReportFigure, ...]:
    """Accuracy by length, over all loads and for each load."""
    lengths = params.evaluation.all_lengths
    slices = {"acc": "all loads"} | {
        f"acc_{name}": f"{facts} facts" for name, facts in params.evaluation.loads.items()
    }
    return tuple(
        ReportFigure(
            title=f"Recall by stream length, {words}",
            caption="Mean over seeds and questions; the same questions at every length. "
            "Training streams have at most "
            f"{max(params.train.lengths)} tokens.",
            x_label="tokens",
            y_label="exact answers",
            lines={
                arm: (
                    tuple(float(length) for length in lengths),
                    tuple(
                        mean(scores, f"{metric}@{length_name(length)}", arm) for length in lengths
                    ),
                )
                for arm in arms
            },
            log2_x=True,
        )
        for metric, words in slices.items()
    )


def arm_table(
    params: LongMemoryParams,
    arms: tuple[str, ...],
    artifacts: Mapping[Run, Artifact],
    scores: ScoreTable,
) -> ReportTable:
    """Bytes, trained seeds, effective length and gate figures of every arm."""
    rows = []
    for arm in arms:
        runs = {run.seed: art for run, art in artifacts.items() if run.arm == arm}
        checked = [art for art in runs.values() if "failed_to_train" in art.figures]
        failed = sorted(
            seed for seed, art in runs.items() if art.figures.get("failed_to_train", 0.0) > 0
        )
        trained = f"{len(runs) - len(failed)} of {len(runs)}" if checked else "out of reach"
        rows.append(
            (
                arm,
                max(art.cost.persistent_bytes or 0 for art in runs.values()),
                trained + (f" (failed: seed {', '.join(map(str, failed))})" if failed else ""),
                effective_length(params, scores, arm),
                _figure(runs.values(), "fact_write_rate"),
                _figure(runs.values(), "false_writes_per_stream"),
                _figure(runs.values(), "coupling_gap"),
            )
        )
    second = sorted(params.evaluation.all_lengths)[:2][-1]
    return ReportTable(
        title="Memories",
        caption=f"Trained: at least {params.trained_floor:.0%} right on dev at "
        f"{min(params.evaluation.all_lengths)} tokens and the lightest load; an arm below that "
        "failed to train and is not called beaten. Effective length: the longest with "
        f"{_KEPT:.0%} of the arm's own short accuracy (0: under {_KNOWS:.0%} right there). "
        f"Gate figures on dev at {second} tokens, means over seeds; "
        "coupling gap: accuracy lost when the coupling is cut out.",
        columns=(
            "arm",
            "memory bytes",
            "seeds that trained",
            "effective length",
            "facts written",
            "false writes a stream",
            "coupling gap",
        ),
        rows=tuple(rows),
    )


def effective_length(params: LongMemoryParams, scores: ScoreTable, arm: str) -> int:
    """Longest length up to which every accuracy keeps 85 % of the shortest's; 0 for none."""
    lengths = sorted(params.evaluation.all_lengths)
    own = mean(scores, f"acc@{length_name(lengths[0])}", arm)
    if own < _KNOWS:
        return 0
    reached = lengths[0]
    for length in lengths[1:]:
        if mean(scores, f"acc@{length_name(length)}", arm) < _KEPT * own:
            break
        reached = length
    return reached


def mean(scores: ScoreTable, metric: str, arm: str) -> float:
    """Plain mean over seeds and examples."""
    return float(scores.select(metric=metric, arms=[arm]).frame["value"].mean())


def _figure(artifacts: Iterable[Artifact], name: str) -> str:
    values = [art.figures[name] for art in artifacts if name in art.figures]
    return f"{np.mean(values):.3f}" if values else "none"
