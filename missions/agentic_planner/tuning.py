"""Tunes planner and fused control on dev, with equal numbers of settings at equal compute.

    python -m missions.agentic_planner.tuning --grid tuning_1.yaml --out tuning_1.json

A grid (a round) holds the settings and is written before its run; the results hold what came of
them. A later round is written with the results of the earlier ones known, again with equally many
settings for both sides. A setting is judged by exact match on dev as the contestant is served.
Fused settings that learn from the experts' table get that of the planner's first setting and are
not charged for it. No test query is scored: the data are made with one a type, which stay unread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from bem.base import BaseModel as FrozenBase
from bem.base import load_base
from missions.agentic_planner import contest, world
from missions.agentic_planner.chains import encode_chains
from missions.agentic_planner.params import Params
from missions.agentic_planner.queries import KINDS
from missions.agentic_planner.scoring import (
    Contestant,
    FusedContestant,
    PolicyContestant,
    exact_matches,
    run_contestant,
)
from missions.registry import mission_file
from missions.spec import ExamplesConfig, MissionSpec, load_spec
from missions.workdir import base_reference

Side = Literal["planner", "fused"]
SIDES: tuple[Side, ...] = get_args(Side)
ROUNDS = ("tuning_1", "tuning_2", "tuning_3", "tuning_4")
"""Names of the committed rounds: a grid `.yaml` and its results `.json` each."""
_HERE = Path(__file__).parent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Grid(_Strict):
    """What is tried."""

    data_seed: int
    seeds: tuple[int, ...] = Field(min_length=1)
    dev: int = Field(ge=1)
    """Dev queries."""
    train_gflops: float = Field(gt=0)
    """Training compute of a setting and seed (see costs)."""
    tolerance: float = Field(gt=0)
    """How far from it a setting may be, as a share."""
    start: dict[str, Any]
    sides: dict[Side, dict[str, dict[str, Any]]]

    def params(self, spec: MissionSpec, side: Side, setting: str) -> Params:
        """The mission's params under a setting."""
        patch = _merge(self.start, self.sides[side][setting])
        return Params.model_validate(_merge(spec.params, patch))


class Row(_Strict):
    """One setting under one seed, on dev."""

    side: Side
    setting: str
    seed: int
    em: float
    em_by_type: dict[str, float]
    gold_plans: float
    """Share of queries answered under the gold plan."""
    train_gflops: float
    cpu_s: float
    """Training and what is run for it."""


class Results(_Strict):
    """All rows, and the sha256 of the grid that they belong to."""

    grid_sha256: str
    rows: tuple[Row, ...]

    def means(self, side: Side) -> dict[str, float]:
        """Mean exact match over seeds of every setting."""
        found: dict[str, list[float]] = {}
        for row in self.rows:
            if row.side == side:
                found.setdefault(row.setting, []).append(row.em)
        return {setting: float(np.mean(values)) for setting, values in found.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """A grid with its results."""

    grid: Grid
    results: Results
    grid_sha256: str


def load_round(name: str) -> Round:
    """A committed round."""
    path = _HERE / f"{name}.yaml"
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    results = Results.model_validate_json(text)
    return Round(grid=load_grid(path), results=results, grid_sha256=grid_sha256(path))


def best(rounds: Sequence[Round], side: Side) -> tuple[Round, str]:
    """The setting of the highest mean over seeds; the earlier one where two are equal."""
    found = [(each, setting) for each in rounds for setting in each.grid.sides[side]]
    return max(found, key=lambda pair: pair[0].results.means(side)[pair[1]])


def load_grid(path: Path) -> Grid:
    """The settings to try."""
    return Grid.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def grid_sha256(path: Path) -> str:
    """Of the file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Bench:
    """The ground on which settings are compared."""

    def __init__(self, grid: Grid, spec: MissionSpec, base: FrozenBase, workdir: Path) -> None:
        self.grid, self.spec, self.base = grid, spec, base
        params = Params.model_validate(spec.params)
        examples = ExamplesConfig(train=spec.examples.train, dev=grid.dev, test=len(KINDS))
        items = world.build(workdir, grid.data_seed, examples, params.data)
        self.field = contest.ground(base, items["train"], params)
        self.dev = encode_chains(items["dev"], base.tokenizer, self.field.setting.marks)

    def planners(self, seed: int) -> Iterator[tuple[Row, contest.Scored]]:
        """Rows with the tables that they come from. What settings have in common is done once."""
        groups: dict[str, list[str]] = {}
        for setting in self.grid.sides["planner"]:
            params = self.grid.params(self.spec, "planner", setting)
            shared = f"{params.training}, {params.policy.queries}, {params.policy.step_cost}"
            groups.setdefault(shared, []).append(setting)
        for settings in groups.values():
            params = self.grid.params(self.spec, "planner", settings[0])
            experts = contest.build_experts(
                self.base, self.field, params, seed, log=_silent, should_stop=_never
            )
            scored = contest.score_plans(
                experts.host, self.field, params.policy, params.policy.queries
            )
            for setting in settings:
                policy = self.grid.params(self.spec, "planner", setting).policy
                planner = contest.with_policy(experts, scored, self.field, policy, seed)
                who = PolicyContestant(planner.policy)
                yield self._row("planner", setting, seed, planner, who), scored
            experts.host.detach()

    def fused(self, seed: int, scored: contest.Scored) -> Iterator[Row]:
        """Rows; `scored`: what settings that learn from the experts' table are given."""
        for setting in self.grid.sides["fused"]:
            params = self.grid.params(self.spec, "fused", setting)
            trained = contest.build_fused(
                self.base,
                self.field,
                params,
                seed,
                scored=scored,
                log=_silent,
                should_stop=_never,
            )
            who = FusedContestant(self.field.setting)
            yield self._row("fused", setting, seed, trained, who)
            trained.host.detach()

    def _row(
        self,
        side: Side,
        setting: str,
        seed: int,
        trained: contest.Planner | contest.Trained,
        who: Contestant,
    ) -> Row:
        answers = run_contestant(trained.host, self.dev, self.field.setting, who)
        em_Q = exact_matches(answers, self.dev)
        queries = [chain.item.query for chain in self.dev]
        golden = [plan == query.plan for plan, query in zip(answers.plans, queries, strict=True)]
        return Row(
            side=side,
            setting=setting,
            seed=seed,
            em=round(float(em_Q.mean()), 4),
            em_by_type={
                kind: round(float(em_Q[[query.kind == kind for query in queries]].mean()), 4)
                for kind in KINDS
            },
            gold_plans=round(float(np.mean(golden)), 4),
            train_gflops=round(trained.train_flops / 1e9, 1),
            cpu_s=round(trained.cpu_s, 1),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `python -m missions.agentic_planner.tuning`."""
    parser = argparse.ArgumentParser(description="Tune both sides of mission A on dev.")
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    grid, spec = load_grid(options.grid), load_spec(mission_file("A"))
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        results = Results(grid_sha256=grid_sha256(options.grid), rows=tuple(rows))
        options.out.write_text(as_json(results), encoding="utf-8")
        sys.stdout.write(f"{row.model_dump_json()}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="bem-tuning-") as workdir:
        bench = Bench(grid, spec, load_base(base_reference(spec)), Path(workdir))
        for seed in grid.seeds:
            first: contest.Scored | None = None
            for row, scored in bench.planners(seed):
                first = scored if first is None else first
                keep(row)
            assert first is not None
            for row in bench.fused(seed, first):
                keep(row)
    results = Results(grid_sha256=grid_sha256(options.grid), rows=tuple(rows))
    for side in SIDES:
        for setting, mean in results.means(side).items():
            sys.stdout.write(f"{side:8s} {setting:18s} {mean:.4f}\n")
    return 0


def as_json(results: Results) -> str:
    """One row a line."""
    rows = ",\n".join(json.dumps(row.model_dump(mode="json")) for row in results.rows)
    return f'{{"grid_sha256": "{results.grid_sha256}", "rows": [\n{rows}\n]}}\n'


def _merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in patch.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merge(old, value)
        merged[key] = value
    return merged


def _silent(step: int, metrics: dict[str, float]) -> None:
    pass


def _never() -> bool:
    return False


if __name__ == "__main__":
    sys.exit(main())
