"""From one pass over the stream to per-example scores.

Metrics: `exact_match` of every prompt, and the same over the parts `known`, `novel` and
`unchanged`; `time_to_fix` with its event flag, one row a behaviour; `false_rollback`, one row a
canary run outside the poisoned burst; `poison_handled`, two rows: the burst was rolled back, and
the state was good again when it had settled; `retention`, exact match after the
stream on what was never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from missions.living_model.data import Item
from missions.living_model.formats import BEHAVIOURS
from missions.living_model.metrics import affected_prompts, group_of, in_burst, time_to_fix
from missions.living_model.params import LivingModelParams
from missions.living_model.stream import StreamResult
from stats.scores import ScoreTable

Row = tuple[str, str, str, float]
"""(example, cluster, metric, value)."""


def score_table(
    arm: str,
    seed: int,
    stream: Sequence[Item],
    result: StreamResult,
    retained: Mapping[str, bool],
    params: LivingModelParams,
) -> ScoreTable:
    """All scores of one run."""
    rows = [
        *_prompt_rows(stream, result.hits, params.stream.cluster),
        *_fix_rows(stream, result.hits, params),
        *_rollback_rows(result, params),
        *((name, name, "retention", float(hit)) for name, hit in retained.items()),
    ]
    example, cluster, metric, value = zip(*rows, strict=True)
    return ScoreTable.from_columns(
        arm=arm, seed=seed, example_id=example, cluster_id=cluster, metric=metric, value=value
    )


def _prompt_rows(stream: Sequence[Item], hits: Sequence[bool], size: int) -> list[Row]:
    """Neighbours share the state that served them: they form one cluster."""
    rows: list[Row] = []
    for at, (item, hit) in enumerate(zip(stream, hits, strict=True)):
        cluster = f"block{at // size:04d}"
        rows.append((item.id, cluster, "exact_match", float(hit)))
        rows.append((item.id, cluster, f"exact_match_{group_of(item)}", float(hit)))
    return rows


def _fix_rows(stream: Sequence[Item], hits: Sequence[bool], params: LivingModelParams) -> list[Row]:
    rows: list[Row] = []
    for behaviour in BEHAVIOURS:
        injection, _, novelty = behaviour.partition("_")
        start = next(at for name, at in params.stream.injections.items() if name == injection)
        fix = time_to_fix(
            hits,
            affected_prompts(stream, behaviour),
            start,
            window=params.fix.window,
            threshold=params.fix.threshold,
            censor=params.fix.censor,
        )
        for suffix in ("", f"_{novelty}"):
            rows.append((behaviour, behaviour, f"time_to_fix{suffix}", float(fix.prompts)))
            rows.append((behaviour, behaviour, f"time_to_fix{suffix}_event", float(fix.event)))
    return rows


def _rollback_rows(result: StreamResult, params: LivingModelParams) -> list[Row]:
    rows: list[Row] = []
    answered = recovered = False
    good = params.canary.promote_ratio * result.start_score
    for event in result.canary:
        rolled_back = event.action == "rollback"
        if in_burst(event.at, params.stream.poison, params.stream.settle):
            answered = answered or rolled_back
            recovered = rolled_back or event.report.score >= good
            continue
        name = f"canary{event.at:05d}"
        rows.append((name, name, "false_rollback", float(rolled_back)))
    for name, held in (("rolled_back", answered), ("recovered", recovered)):
        rows.append((name, name, "poison_handled", float(held)))
    return rows
