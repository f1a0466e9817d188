"""The noise floor: what a run gave, and what the same run gave when it was executed again.

Two launches hold the same run where its key is the same: mission file, arm, seed, code and data
agree, so that whatever differs is noise of the machine. Nothing is executed here; where no other
launch beside this one holds the same runs, nothing is known. Knows ledgers and score files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleet.errors import FleetError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import ResultRow
from fleet.settings import RunPaths, list_runs
from stats.scores import ScoreTable

NEWEST_RUNS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseFloor:
    """A second execution of the same runs."""

    other: str
    """The launch that holds it."""
    compared: int
    """Runs with the same key in both."""
    equal: int
    """Runs of which every score is the same to the bit."""
    missions: tuple[str, ...]
    worst: float
    """Largest difference of a run's mean, over runs and metrics."""
    worst_where: str
    same_verdicts: bool
    """Whether both launches ended with the same verdict table to the bit."""

    @property
    def text(self) -> str:
        """In words."""
        what = f"{self.compared} runs of {', '.join(self.missions)} executed twice (again in "
        what += f"{self.other}): scores of {self.equal} equal to the bit"
        if self.equal == self.compared:
            return what
        return f"{what}, largest difference of a run's mean {self.worst:.4g} ({self.worst_where})"


def noise_floor(paths: RunPaths) -> NoiseFloor | None:
    """The other launch in the same folder that shares most runs; None where none shares any."""
    with LedgerReader(paths.ledger) as reader:
        ours = {row.key: row for row in reader.results()}
        table = _verdict_digest(reader)
    best: NoiseFloor | None = None
    for other in list_runs(paths.root.parent)[:NEWEST_RUNS]:
        if other.run_id == paths.run_id:
            continue
        try:
            with LedgerReader(other.ledger) as reader:
                theirs = {row.key: row for row in reader.results() if row.key in ours}
                same = table is not None and _verdict_digest(reader) == table
        except FleetError:
            continue  # a damaged or foreign ledger holds no second execution that counts
        if theirs and (best is None or (same, len(theirs)) > (best.same_verdicts, best.compared)):
            best = _compare(paths, other, ours, theirs, same_verdicts=same)
    return best


def _verdict_digest(reader: LedgerReader) -> str | None:
    body = reader.latest("campaign")
    return None if body is None else str(body["verdict_digest"])


def _compare(
    paths: RunPaths,
    other: RunPaths,
    ours: Mapping[str, ResultRow],
    theirs: Mapping[str, ResultRow],
    *,
    same_verdicts: bool,
) -> NoiseFloor:
    equal, worst, where = 0, 0.0, ""
    for key, again in theirs.items():
        first = ours[key]
        if first.scores_digest == again.scores_digest:
            equal += 1
            continue
        for metric, gap in _gaps(
            paths.scores / first.scores_file, other.scores / again.scores_file
        ):
            if gap >= worst:
                worst, where = gap, f"{first.run}, {metric}"
    return NoiseFloor(
        other=other.run_id,
        compared=len(theirs),
        equal=equal,
        missions=tuple(sorted({row.mission for row in theirs.values()})),
        worst=worst,
        worst_where=where,
        same_verdicts=same_verdicts,
    )


def _gaps(first: Path, again: Path) -> list[tuple[str, float]]:
    """|difference of means| of every metric that both files hold."""
    means = [_means(ScoreTable.from_parquet(path)) for path in (first, again)]
    return [
        (metric, abs(value - means[1][metric]))
        for metric, value in means[0].items()
        if metric in means[1]
    ]


def _means(table: ScoreTable) -> dict[str, float]:
    return {
        metric: float(np.mean(table.select(metric=metric).frame["value"].to_numpy()))
        for metric in table.metrics
    }
