"""Same items for every arm, in any order of arrival, in the units that were declared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stats.errors import DuplicateCellError, MissingCellsError
from stats.gates import parse_gate
from stats.integrity import manifest_digest, manifests, require_equal_manifests
from stats.scores import ScoreTable
from stats.verdict import ArmCost, MissionPlan, ParityRule, judge, judge_family

SEEDS, ITEMS = 4, 60


def parts(*, clusters: bool = False) -> list[ScoreTable]:
    """One table an arm and seed, as runs hand them over."""
    rng = np.random.default_rng(5)
    names = [f"item{i:02d}" for i in range(ITEMS)]
    return [
        ScoreTable.from_columns(
            arm=arm,
            seed=seed,
            example_id=names,
            cluster_id=[f"doc{i // 3}" for i in range(ITEMS)] if clusters else None,
            metric="em",
            value=(rng.random(ITEMS) < level).astype(float),
        )
        for arm, level in (("new", 0.7), ("old", 0.5))
        for seed in range(SEEDS)
    ]


def plan(clusters: str = "") -> MissionPlan:
    gate = parse_gate(
        {
            "id": "better",
            "kind": "superiority",
            "metric": "em",
            "treatment": "new",
            "versus": "old",
            "primary": True,
        }
    )
    return MissionPlan(
        mission="M",
        hypothesis="h",
        estimand="e",
        seeds=tuple(range(SEEDS)),
        num_examples_min=1,
        gates=(gate,),
        parity=ParityRule(tolerance=0.05, pairs=()),
        clusters=clusters,
    )


def verdict_json(tables: list[ScoreTable], clusters: str = "") -> str:
    costs: dict[str, ArmCost] = {}
    verdict = judge(plan(clusters), ScoreTable.concat(tables), costs, rng_seed=1, resamples=300)
    return json.dumps(judge_family([verdict])[0].to_dict(), sort_keys=True)


def test_the_order_of_arrival_leaves_the_verdict_bit_identical() -> None:
    rng = np.random.default_rng(0)
    tables = parts(clusters=True)
    expected = verdict_json(tables)
    for _ in range(3):
        arrived = [tables[at] for at in rng.permutation(len(tables))]
        shuffled = [ScoreTable(table.frame.iloc[rng.permutation(len(table))]) for table in arrived]
        again = shuffled[0]  # a hand-over delivered twice
        assert verdict_json([*shuffled, again]) == expected


def test_a_manifest_knows_items_and_nothing_else() -> None:
    tables = parts()
    digest = manifest_digest(tables[0])
    assert {manifest_digest(table) for table in tables} == {digest}
    assert manifest_digest(ScoreTable.concat(tables)) == digest
    frame = tables[0].frame
    assert manifest_digest(ScoreTable(frame.assign(value=0.5, metric="f1"))) == digest
    assert manifest_digest(ScoreTable(frame.iloc[1:])) != digest
    assert manifest_digest(ScoreTable(frame.assign(cluster_id="one"))) != digest
    found = manifests(ScoreTable.concat(tables), "em")
    assert set(found) == {(arm, seed) for arm in ("new", "old") for seed in range(SEEDS)}


def test_arms_on_different_items_are_refused() -> None:
    tables = parts()
    whole = ScoreTable.concat(tables)
    assert require_equal_manifests(whole, "em", ("new", "old")) == manifest_digest(whole)
    frame = tables[-1].frame
    other = ScoreTable(frame.assign(example_id=frame["example_id"].replace("item00", "item99")))
    mixed = [*tables[:-1], other]
    with pytest.raises(MissingCellsError, match=r"different items \(2 manifests.*old/seed 3"):
        require_equal_manifests(ScoreTable.concat(mixed), "em", ("new", "old"))
    assert json.loads(verdict_json(mixed))["verdict"] == "INVALID"


def test_a_cell_that_comes_twice_and_disagrees_alarms() -> None:
    tables = parts()
    frame = tables[0].frame
    changed = ScoreTable(frame.assign(value=1.0 - frame["value"]))
    with pytest.raises(DuplicateCellError, match=f"{ITEMS} cells came twice and disagree"):
        ScoreTable.concat([*tables, changed])


def test_scores_in_other_units_than_declared_are_invalid() -> None:
    single, clustered = parts(), parts(clusters=True)
    for tables, declared in ((single, "independent"), (clustered, "document"), (clustered, "")):
        assert json.loads(verdict_json(tables, declared))["verdict"] != "INVALID"
    wrong = json.loads(verdict_json(clustered, "independent"))
    assert wrong["verdict"] == "INVALID"
    assert "60 items in 20 clusters" in wrong["reasons"][0]
    wrong = json.loads(verdict_json(single, "document"))
    assert wrong["verdict"] == "INVALID"
    assert "stands alone" in wrong["reasons"][0]
