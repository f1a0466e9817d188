"""What a drift monitor over right and wrong answers says of each arm's stream: report only.

The monitor sees every answer at once, without the delay and the errors of feedback: it shows what
could be told of the stream, and decides nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bem.online import drift_points
from missions.living_model.data import Item
from missions.living_model.params import LivingModelParams
from missions.protocol import ReportTable
from stats.scores import ScoreTable

_REACH = 200
"""Prompts after an injection within which a change of level is put down to it."""


def drift_table(
    arms: Sequence[str], stream: Sequence[Item], params: LivingModelParams, scores: ScoreTable
) -> ReportTable:
    """Delay of the first alarm after the first injection, and alarms that no injection explains."""
    order = {item.id: at for at, item in enumerate(stream)}
    causes = sorted(params.stream.injections.values())
    rows = []
    for arm in arms:
        frame = scores.select(metric="exact_match", arms=[arm]).frame
        delays: list[int] = []
        others = seeds = 0
        for _, cells in frame.groupby("seed"):
            seeds += 1
            placed = cells.sort_values("example_id", key=lambda ids: ids.map(order))
            points = drift_points(placed["value"].to_numpy() > 0.5)
            explained = [at for at in points if any(0 < at - c <= _REACH for c in causes)]
            others += len(points) - len(explained)
            delays += [min(at - causes[0] for at in explained)] if explained else []
        delay = float(np.median(delays)) if delays else "none"
        rows.append((arm, f"{len(delays)} of {seeds}", delay, others))
    first, last = params.stream.poison
    return ReportTable(
        title="Drift monitor (ADWIN over right and wrong answers)",
        caption=f"In how many seeds the injections were noticed within {_REACH} prompts, the "
        "median number of prompts from the first injection to the first alarm, and alarms at "
        f"other times, summed over seeds: fixes, too, change the level, and so does the poisoned "
        f"burst ({first} to {last}).",
        columns=("arm", "seeds with an alarm", "median delay (prompts)", "other alarms"),
        rows=tuple(rows),
    )
