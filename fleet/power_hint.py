"""What a planned grid can detect, from the variance components of an earlier run of the mission.

Without an earlier run nothing is said: a figure made up for the occasion would be worse. Knows
ledgers and `stats.power`, no scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fleet.errors import FleetError
from fleet.ledger.reader import LedgerReader
from fleet.plan import MissionWork
from fleet.settings import list_runs
from stats.power import mde
from stats.verdict import MissionVerdict

NEWEST_RUNS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerHint:
    """The minimum detectable effect of the primary gate at the planned size."""

    mde: float
    """At 80 % power, on the scale of the gate's estimate."""
    margins: tuple[float, ...]
    scale: str
    seeds: int
    units: int
    source: str
    """Run whose variance components were used."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def power_hints(works: Sequence[MissionWork], runs_dir: Path) -> dict[str, PowerHint]:
    """Mission -> hint, for the missions that the newest runs know variance components of."""
    wanted = {work.mission: work for work in works if len(work.spec.seeds) >= 2}
    found: dict[str, PowerHint] = {}
    for paths in list_runs(runs_dir)[:NEWEST_RUNS]:
        if wanted.keys() <= found.keys():
            break
        try:
            with LedgerReader(paths.ledger) as reader:
                for decision in reader.decisions():
                    mission = str(decision.body.get("mission"))
                    if decision.kind == "verdict" and mission in wanted.keys() - found.keys():
                        then = json.loads(reader.spec_json(mission))["examples"]["test"]
                        hint = _hint(wanted[mission], decision.body, then, paths.run_id)
                        if hint is not None:
                            found[mission] = hint
        except FleetError:
            continue  # a damaged or foreign ledger is no reason to refuse a plan
    return found


def _hint(
    work: MissionWork, body: dict[str, Any], test_examples_then: int, source: str
) -> PowerHint | None:
    primary = MissionVerdict.from_dict(body).primary
    components = primary.components
    if components is None or not primary.num_units or len(primary.seeds) < 2:
        return None
    if not components.seed + components.example + components.residual:
        return None
    units = max(2, round(primary.num_units * work.spec.examples.test / test_examples_then))
    return PowerHint(
        mde=mde(components, len(work.spec.seeds), units),
        margins=primary.margins,
        scale=primary.scale,
        seeds=len(work.spec.seeds),
        units=units,
        source=source,
    )
