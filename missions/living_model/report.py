"""What mission B lends to the report: the stream's curves and a table a behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from missions.living_model.data import Item
from missions.living_model.formats import BEHAVIOURS
from missions.living_model.params import LivingModelParams
from missions.protocol import ReportFigure, ReportTable
from stats.scores import ScoreTable


def extras(
    arms: Sequence[str],
    stream: Sequence[Item],
    params: LivingModelParams,
    online_params: Mapping[str, float],
    scores: ScoreTable,
) -> Sequence[ReportTable | ReportFigure]:
    """Rolling exact match, fixes by behaviour, and what protection did."""
    return (
        _curve(arms, stream, params, scores, injected=True),
        _curve(arms, stream, params, scores, injected=False),
        _fix_table(arms, scores),
        _arm_table(arms, online_params, scores),
    )


def _curve(
    arms: Sequence[str],
    stream: Sequence[Item],
    params: LivingModelParams,
    scores: ScoreTable,
    *,
    injected: bool,
) -> ReportFigure:
    """Exact match by block of the stream, mean over seeds."""
    size = 2 * params.stream.cluster
    block = {item.id: at // size for at, item in enumerate(stream) if item.injected == injected}
    lines: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    for arm in arms:
        frame = scores.select(metric="exact_match", arms=[arm]).frame
        kept = frame[frame["example_id"].isin(list(block))]
        means = kept.groupby(kept["example_id"].map(block))["value"].mean().sort_index()
        ends = tuple(float((int(at) + 1) * size) for at in means.index)
        lines[arm] = (ends, tuple(float(value) for value in means))
    what = "changed tools, after their injection" if injected else "everything unchanged"
    times = ", ".join(f"{name} {at}" for name, at in params.stream.injections.items())
    first, last = params.stream.poison
    return ReportFigure(
        title=f"Exact match along the stream: {what}",
        caption=f"Blocks of {size} prompts, mean over seeds, scored before each update. "
        f"Injections at prompts: {times}; poisoned feedback on prompts {first} to {last}.",
        x_label="prompts served",
        y_label="exact match",
        lines=lines,
    )


def _fix_table(arms: Sequence[str], scores: ScoreTable) -> ReportTable:
    time = _means(scores, "time_to_fix")
    event = _means(scores, "time_to_fix_event", "sum")
    rows = tuple(
        (behaviour, arm, float(time[arm, behaviour]), int(event[arm, behaviour]))
        for behaviour in BEHAVIOURS
        for arm in arms
    )
    return ReportTable(
        title="Time to fix by injected behaviour",
        caption="Mean prompts until the last 20 prompts of the behaviour reach the threshold, "
        "censored at the horizon, and in how many seeds it was fixed. A behaviour that the frozen "
        "arm also passes never failed.",
        columns=("behaviour", "arm", "mean prompts (censored)", "seeds fixed"),
        rows=rows,
    )


def _arm_table(
    arms: Sequence[str], online_params: Mapping[str, float], scores: ScoreTable
) -> ReportTable:
    def mean(metric: str, arm: str, how: str = "mean") -> float:
        values = scores.select(metric=metric, arms=[arm]).frame["value"]
        return float(values.sum() if how == "sum" else values.mean())

    rows = tuple(
        (
            arm,
            int(online_params[arm]),
            mean("exact_match_known", arm),
            mean("exact_match_novel", arm),
            mean("exact_match_unchanged", arm),
            mean("retention", arm),
            mean("poison_handled", arm),
            int(mean("false_rollback", arm, "sum")),
        )
        for arm in arms
    )
    return ReportTable(
        title="What each arm changed, gained and kept",
        caption="All arms hold the same adapter; they differ in what is updated online. Known: the "
        "new behaviour stands in the initial family under a cue. Retention: cued requests and the "
        "unchanged tool after the stream. Burst handled: rolled back, and as good as before once "
        "it had settled (mean of the two over seeds). Other rollbacks are summed over seeds.",
        columns=(
            "arm",
            "updated online",
            "known",
            "novel",
            "unchanged",
            "retention",
            "burst handled",
            "other rollbacks",
        ),
        rows=rows,
    )


def _means(scores: ScoreTable, metric: str, how: str = "mean") -> pd.Series[float]:
    grouped = scores.select(metric=metric).frame.groupby(["arm", "example_id"])["value"]
    return grouped.sum() if how == "sum" else grouped.mean()
