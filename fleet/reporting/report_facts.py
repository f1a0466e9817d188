"""What only the runner knows of the reviewer's checklist: reads of test, clusters, calibration.

Each answer says where it is proven. Knows the ledger's chain and the register, no page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from fleet.judging.split_reads import REGISTER, RegisterLine, count_on_machine, reads_sentence
from missions.spec import MissionSpec
from stats.calibration.badge import Word, standing
from stats.report import Fact
from stats.verdict import MissionVerdict

_STATUS: Mapping[Word, Literal["yes", "no", "open"]] = {
    "calibrated": "yes",
    "stale": "open",
    "failed": "no",
    "missing": "open",
}


def reads_fact(lines: Sequence[RegisterLine], runs_dir: Path) -> Fact | None:
    """How often the test split was read; None where no score of it exists."""
    if not lines:
        return None
    said = "; ".join(reads_sentence(line, count_on_machine(runs_dir, line)) for line in lines)
    return Fact(
        answer=f"test scores unlock for frozen arms only, and every read is recorded. {said}",
        where=f"ledger: decisions of kind test_read (hash-chained); {REGISTER} beside the runs",
    )


def clusters_fact(
    specs: Mapping[str, MissionSpec], verdicts: Sequence[MissionVerdict]
) -> Fact | None:
    """What each mission declared of its items, and in what units its primary gate had them."""
    said: list[str] = []
    for verdict in verdicts:
        declared = specs[verdict.mission].clusters
        items, units = verdict.primary.num_examples, verdict.primary.num_units
        if not items:
            found = "not computed"
        elif units < items:
            found = f"{items:,} items in {units:,} clusters"
        else:
            found = f"{items:,} items, each alone"
        said.append(f"{verdict.mission} {declared or 'nothing declared'}: {found}")
    if not said:
        return None
    return Fact(
        answer="; ".join(said),
        where="mission.yaml: clusters; scores/*.parquet: cluster_id",
        status="yes" if all(spec.clusters for spec in specs.values()) else "open",
    )


def calibration_fact() -> Fact:
    """What the package's badge says of the statistics code of this moment."""
    found = standing()
    return Fact(
        answer=found.text,
        where="stats/calibration/badge.json (python fleet.py calibrate)",
        status=_STATUS[found.word],
    )
