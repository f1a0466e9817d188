"""The gain along the stream with limits that hold at every prompt at once: for the report only.

The stream is watched while it runs, so a fixed-sample interval would be wrong at some point of it
far more often than it says; the asymptotic confidence sequence is not. It speaks of prompts of
this stream for the seeds that were trained: the verdict, which covers new seeds too, comes from
the two-way t over the whole stream and nothing here changes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from missions.living_model.data import Item
from missions.protocol import ReportFigure
from stats.errors import DegenerateDataError
from stats.scores import ScoreTable, paired_grid
from stats.sequential.streams import ConfidenceSequence, confidence_sequence

METRIC = "exact_match"
FIRST = 50
"""Prompts before the sequence starts."""


def gain_sequence(
    stream: Sequence[Item], scores: ScoreTable, treatment: str, control: str
) -> tuple[ConfidenceSequence, int] | None:
    """The running mean of treatment minus control, averaged over seeds, and their number.

    None where the stream is too short, or nothing has differed when the sequence starts.
    """
    cells = scores.select(metric=METRIC, arms=[treatment, control]).frame
    # Every prompt is an observation of its own here: the order of the stream takes the place of
    # clusters.
    alone = ScoreTable(cells.assign(cluster_id=cells["example_id"]))
    grid = paired_grid(alone, METRIC, treatment, control)
    at = {example: column for column, example in enumerate(grid.example_ids)}
    order = np.array([at[item.id] for item in stream])
    try:
        found = confidence_sequence(grid.difference_SN.mean(axis=0)[order], first=FIRST)
    except DegenerateDataError:
        return None
    return found, len(grid.seeds)


def gain_figure(
    stream: Sequence[Item], scores: ScoreTable, treatment: str, control: str
) -> tuple[ReportFigure, ...]:
    """One figure, or none where the stream gives no sequence."""
    result = gain_sequence(stream, scores, treatment, control)
    if result is None:
        return ()
    found, num_seeds = result
    first = found.excludes_zero_from
    when = (
        f"Zero first lies outside after {first} prompts."
        if first is not None
        else "Zero never lies outside."
    )
    times = tuple(float(time) for time in found.times_T)
    return (
        ReportFigure(
            title=f"Running gain: {treatment} minus {control}",
            caption=f"Mean of the stream so far over {num_seeds} seed(s), with a {found.level:.0%} "
            "asymptotic confidence sequence (arXiv 2103.06476): its limits hold at all prompts at "
            "once, for new prompts of this stream and these trained seeds. Report only; the "
            f"verdict rests on the two-way t. {when}",
            x_label="prompts served",
            y_label="difference in exact match",
            lines={
                "running gain": (times, _floats(found.mean_T)),
                "lower limit": (times, _floats(found.low_T)),
                "upper limit": (times, _floats(found.high_T)),
            },
        ),
    )


def _floats(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, ...]:
    return tuple(values.tolist())
