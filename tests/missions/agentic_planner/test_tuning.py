"""The committed tuning: both sides had the same budget, and the mission takes what won."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bem.base import load_base
from bem.testing import write_tiny_base
from missions.agentic_planner import tuning
from missions.agentic_planner.params import Params
from missions.registry import mission_file
from missions.spec import load_spec

ROUNDS = [tuning.load_round(name) for name in tuning.ROUNDS]
SPEC = load_spec(mission_file("A"))


@pytest.fixture(params=ROUNDS, ids=tuning.ROUNDS)
def tried(request: pytest.FixtureRequest) -> tuning.Round:
    found: tuning.Round = request.param
    return found


def test_both_sides_have_equally_many_settings(tried: tuning.Round) -> None:
    counts = {side: len(settings) for side, settings in tried.grid.sides.items()}
    assert set(counts) == {"planner", "fused"}
    assert len(set(counts.values())) == 1


def test_no_setting_is_tried_twice() -> None:
    for side in tuning.SIDES:
        tried = [r.grid.params(SPEC, side, s) for r in ROUNDS for s in r.grid.sides[side]]
        texts = [p.model_dump_json(exclude={"data", "eval_rows"}) for p in tried]
        assert len(set(texts)) == len(texts)


def test_the_results_are_those_of_the_grid(tried: tuning.Round) -> None:
    grid = tried.grid
    assert tried.results.grid_sha256 == tried.grid_sha256
    done = Counter((row.side, row.setting, row.seed) for row in tried.results.rows)
    planned = [(e, s, seed) for e in grid.sides for s in grid.sides[e] for seed in grid.seeds]
    assert sorted(done) == sorted(planned)
    assert set(done.values()) == {1}


def test_every_setting_had_the_same_training_compute(tried: tuning.Round) -> None:
    for row in tried.results.rows:
        expected = pytest.approx(tried.grid.train_gflops, rel=tried.grid.tolerance)
        assert row.train_gflops == expected, row


def test_rounds_share_their_ground_and_nothing_of_it_is_in_the_verdict() -> None:
    first = ROUNDS[0].grid
    for tried in (r.grid for r in ROUNDS):
        assert (tried.seeds, tried.dev, tried.data_seed, tried.train_gflops) == (
            first.seeds,
            first.dev,
            first.data_seed,
            first.train_gflops,
        )
        assert not set(tried.seeds) & set(SPEC.seeds)
        assert tried.data_seed != SPEC.data_seed


@pytest.mark.parametrize("side", tuning.SIDES)
def test_the_mission_takes_the_setting_that_is_best_on_dev(side: tuning.Side) -> None:
    won, setting = tuning.best(ROUNDS, side)
    highest = max(mean for r in ROUNDS for mean in r.results.means(side).values())
    assert won.results.means(side)[setting] == highest
    chosen = won.grid.params(SPEC, side, setting)
    mission = Params.model_validate(SPEC.params)
    if side == "planner":
        assert (mission.training, mission.policy) == (chosen.training, chosen.policy)
    else:
        assert mission.fused_training == chosen.fused_training


def test_a_row_for_every_setting_and_tables_only_where_experts_differ(tmp_path: Path) -> None:
    spec = load_spec(mission_file("A"), profile="smoke")
    grid = tuning.Grid.model_validate(
        {
            "data_seed": 3,
            "seeds": [9],
            "dev": 10,
            "train_gflops": 1,
            "tolerance": 0.03,
            "start": {"fused_training": {"outcomes": "none"}},
            "sides": {
                "planner": {
                    "start": {},
                    "fewer": {"policy": {"queries": 10}},
                    "hot": {"policy": {"temperature": 0.1}},
                },
                "fused": {"start": {}, "told": {"fused_training": {"outcomes": "experts"}}},
            },
        }
    )
    bench = tuning.Bench(grid, spec, load_base(write_tiny_base(tmp_path / "base")), tmp_path)
    found = {row.setting: (row, scored) for row, scored in bench.planners(9)}
    assert set(found) == {"start", "fewer", "hot"}
    assert found["start"][1] is found["hot"][1]
    assert len(found["fewer"][1].queries) == 10
    assert found["fewer"][0].train_gflops < found["start"][0].train_gflops
    rows = list(bench.fused(9, found["start"][1]))
    assert [row.setting for row in rows] == ["start", "told"]
    everything = [*(row for row, _ in found.values()), *rows]
    written = tuning.as_json(tuning.Results(grid_sha256="0", rows=tuple(everything)))
    read = tuning.Results.model_validate_json(written)
    assert read.rows == tuple(everything)
    for row in everything:
        assert row.em == pytest.approx(sum(row.em_by_type.values()) / 5, abs=1e-3)
