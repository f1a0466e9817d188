"""What the present budget can decide: the gates of each mission planned from a pilot.

A pilot is an earlier run (its scores, and what training and evaluating cost there) or a long table
of scores. Where none is named the newest run that knows the mission serves; where there is
none, the stated planning values of `stats.planning.gates` do for items that stand alone, and that
is said. One source for
`plan-stats` and for the plan that `--dry-run` shows. Knows ledgers and plans, no statistics of
its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.errors import ConfigError, FleetError, NotFoundError
from fleet.judging.stats_actor import read_scores
from fleet.ledger.reader import LedgerReader
from fleet.settings import RunPaths, find_run, list_runs
from fleet.states import RunState
from missions.spec import MissionSpec
from stats.costs import ArmCost
from stats.errors import StatsError
from stats.plain import from_plain, to_plain
from stats.planning.gates import Budget, GatePlan, pilot_of, plan_gate
from stats.power import RUN_COST_IN_EXAMPLES
from stats.scores import ScoreTable
from stats.sources import SourceOptions, formats, read_source

NEWEST_RUNS = 20
ASSUMED_COST = "assumed"


@dataclass(frozen=True, kw_only=True, slots=True)
class PilotScores:
    """Earlier scores of one mission."""

    source: str
    scores: ScoreTable
    examples: int
    """Test items of the mission there."""
    costs: dict[str, ArmCost]
    run_cost: float | None
    """CPU seconds of training a run over those of evaluating one test item; None: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionStats:
    """The plan of one mission's gates."""

    mission: str
    title: str
    seeds: int
    examples: int
    source: str
    """Where variance components come from, in words."""
    run_cost: float
    run_cost_is: str
    """The cost model, in words."""
    withheld: str | None
    gates: tuple[GatePlan, ...]

    @property
    def undecided(self) -> tuple[str, ...]:
        """Required gates that this budget cannot decide."""
        return tuple(g.gate for g in self.gates if g.required and g.decides == "no")

    @property
    def primary(self) -> GatePlan:
        return next(gate for gate in self.gates if gate.primary)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**to_plain(self), "undecided": list(self.undecided)}


def plan_mission(
    spec: MissionSpec,
    pilot: PilotScores | None,
    *,
    run_cost: float | None = None,
    power: float = 0.8,
    required_only: bool = False,
) -> MissionStats:
    """Plans the gates of one mission.

    Args:
        run_cost: overrides what the pilot measured.
        required_only: leaves out the gates that are only reported.
    """
    cost, words = _cost(run_cost, pilot)
    budget = Budget(
        seeds=len(spec.seeds),
        examples=spec.examples.test,
        run_cost=cost,
        clusters=spec.clusters,
    )
    alpha = 0.025
    if spec.looks is not None:
        alpha = spec.looks.nominal(len(spec.seeds), alpha)
    plans = []
    for gate in spec.gates:
        if required_only and not gate.required:
            continue
        found = None
        if pilot is not None:
            found = pilot_of(
                gate,
                pilot.scores,
                source=pilot.source,
                examples=pilot.examples,
                costs=pilot.costs,
            )
        plans.append(plan_gate(gate, budget, found, power=power, alpha=alpha))
    return MissionStats(
        mission=spec.id,
        title=spec.title,
        seeds=budget.seeds,
        examples=budget.examples,
        source="no pilot" if pilot is None else pilot.source,
        run_cost=cost,
        run_cost_is=words,
        withheld=spec.withhold_verdict,
        gates=tuple(plans),
    )


def find_pilot(
    spec: MissionSpec, where: str | None, runs_dir: Path, *, examples: int | None = None
) -> PilotScores | None:
    """The pilot of a mission.

    Args:
        where: a run (its folder or id), a long table as `judge` reads it, or None for the newest
            run that has scores of at least two seeds; runs that give no verdict (smoke) are
            passed over then.
        examples: test items that a table's scores come from; those of the plan by default.

    Raises:
        NotFoundError: `where` is neither a file nor a run, or the run does not know the mission.
        ConfigError: a file that is no long table, or whose items do not come as declared.
        SourceError: a long table that cannot be read.
    """
    if where is None:
        for paths in list_runs(runs_dir)[:NEWEST_RUNS]:
            try:
                found = _of_run(spec, paths, withheld_too=False)
            except (FleetError, StatsError, OSError):
                continue  # a damaged or foreign run is no reason to refuse a plan
            if found is not None:
                return found
        return None
    path = Path(where)
    is_id = where in {run.run_id for run in list_runs(runs_dir)}
    if not is_id and path.is_file():
        return _of_table(spec, path, where, examples)
    if not is_id and path.is_dir() and not RunPaths(root=path).ledger.is_file():
        raise NotFoundError(f"--pilot {where!r}: a folder without a run (ledger.sqlite).")
    if not is_id and not path.is_dir() and (path.suffix or "/" in where):
        raise NotFoundError(f"--pilot {where!r}: no such file or folder.")
    paths = RunPaths(root=path) if not is_id and path.is_dir() else find_run(runs_dir, where)
    pilot = _of_run(spec, paths, withheld_too=True)
    if pilot is None:
        raise NotFoundError(
            f"--pilot {where!r}: run {paths.run_id} has no two complete seeds of mission {spec.id}."
        )
    return pilot


def _of_table(spec: MissionSpec, path: Path, where: str, examples: int | None) -> PilotScores:
    """Scores of a file, by the reader that `judge` has."""
    if not formats()["table"].matches(path):
        raise ConfigError(
            f"--pilot {where!r}: expected a run (folder or id) or a long table of scores (.csv, "
            ".parquet, .jsonl)."
        )
    metrics = tuple({gate.metric for gate in spec.gates if gate.kind != "exact"})
    options = SourceOptions(metrics=metrics if len(metrics) == 1 else None)
    scores = read_source(path, options, form="table").scores
    primary = next(gate for gate in spec.gates if gate.primary)
    items = scores.select(metric=(primary.metric,)).frame[["example_id", "cluster_id"]]
    alone = len(items) > 0 and items.drop_duplicates()["cluster_id"].is_unique
    if alone and spec.clusters not in ("", "independent"):
        raise ConfigError(
            f"--pilot {where!r}: mission {spec.id} says that items come by {spec.clusters}, but "
            f"every item of metric {primary.metric!r} stands alone there; name them in a column "
            "cluster_id."
        )
    return PilotScores(
        source=f"pilot {path.name}",
        scores=scores,
        examples=examples or spec.examples.test,
        costs={},
        run_cost=None,
    )


def _of_run(spec: MissionSpec, paths: RunPaths, *, withheld_too: bool) -> PilotScores | None:
    """Scores of the seeds that are complete in a run; None where it has fewer than two."""
    with LedgerReader(paths.ledger) as reader:
        if spec.id not in {row.mission for row in reader.missions()}:
            return None
        then = json.loads(reader.spec_json(spec.id))
        if then["withhold_verdict"] is not None and not withheld_too:
            return None
        runs = reader.runs(spec.id)
        unfinished = {run.seed for run in runs if run.state is not RunState.DONE}
        results = [row for row in reader.results(spec.id) if row.seed not in unfinished]
        if len({row.seed for row in results}) < 2:
            return None
        examples = int(then["examples"]["test"])
        timings = [t for t in reader.timings() if t.mission == spec.id]
    trained = sum(t.cpu_s for t in timings if t.stage == "train")
    read = sum(t.cpu_s for t in timings if t.stage == "evaluate")
    # Both were spent on the same runs: their number cancels.
    run_cost = trained * examples / read if trained > 0 and read > 0 else None
    return PilotScores(
        source=f"run {paths.run_id}",
        scores=read_scores(paths, [row.scores_file for row in results]),
        examples=examples,
        costs={row.arm: from_plain(ArmCost, json.loads(row.cost_json)) for row in results},
        run_cost=run_cost,
    )


def _cost(asked: float | None, pilot: PilotScores | None) -> tuple[float, str]:
    words = "training a run costs as much as evaluating {:,.0f} test items"
    if asked is not None:
        return asked, f"{words.format(asked)} (--run-cost)"
    if pilot is not None and pilot.run_cost is not None:
        cost = max(1.0, pilot.run_cost)
        return cost, f"{words.format(cost)} (CPU seconds of {pilot.source})"
    return float(RUN_COST_IN_EXAMPLES), f"{words.format(RUN_COST_IN_EXAMPLES)} ({ASSUMED_COST})"


def plan_all(
    specs: Sequence[MissionSpec],
    runs_dir: Path,
    *,
    pilot: str | None = None,
    pilot_examples: int | None = None,
    run_cost: float | None = None,
    power: float = 0.8,
    required_only: bool = False,
) -> dict[str, MissionStats]:
    """Mission -> its plan."""
    return {
        spec.id: plan_mission(
            spec,
            find_pilot(spec, pilot, runs_dir, examples=pilot_examples),
            run_cost=run_cost,
            power=power,
            required_only=required_only,
        )
        for spec in specs
    }
