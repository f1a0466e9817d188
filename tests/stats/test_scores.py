from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stats.errors import DuplicateCellError, MissingCellsError, NonFiniteScoreError, ScoreError
from stats.scores import COLUMNS, ScoreTable, arm_grid, paired_grid


def one(value=0.0, **changes):
    columns = {"arm": "a", "seed": 1, "example_id": ["x"], "metric": "em", "value": [value]}
    return ScoreTable.from_columns(**(columns | changes))


def grid_table(seeds=(3, 1), examples=("b", "a", "c"), arms=("t", "c")):
    return ScoreTable.concat(
        ScoreTable.from_columns(
            arm=arm,
            seed=seed,
            example_id=list(examples),
            metric="em",
            value=[seed * 10 + ord(name) + (arm == "t") for name in examples],
        )
        for arm in arms
        for seed in seeds
    )


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(12)))
def test_row_order_changes_nothing(order):
    frame = grid_table().frame
    shuffled = ScoreTable(frame.iloc[list(order)])
    assert shuffled.digest() == grid_table().digest()
    pd.testing.assert_frame_equal(shuffled.frame, frame)


def test_digest_sees_every_column():
    digests = {one().digest(), one(1.0).digest(), one(arm="b").digest(), one(seed=2).digest()}
    digests |= {one(example_id=["y"]).digest(), one(metric="f1").digest()}
    digests |= {one(cluster_id=["doc"]).digest()}
    assert len(digests) == 7
    assert one(0.0).digest() == one(-0.0).digest()


def test_frame_has_the_columns_and_types():
    frame = one(True).frame
    assert tuple(frame.columns) == COLUMNS
    assert frame["value"].dtype == np.float64
    assert frame["seed"].dtype == np.int64


def test_equal_duplicates_collapse_and_unequal_ones_raise():
    assert len(ScoreTable.concat([one(1.0), one(1.0)])) == 1
    with pytest.raises(DuplicateCellError, match=r"disagree.*'a'.*seed 1: values 1\.0 and 0\.0,"):
        ScoreTable.concat([one(1.0), one(0.0)])
    with pytest.raises(DuplicateCellError, match="clusters 'x' and 'doc'"):
        ScoreTable.concat([one(1.0), one(1.0, cluster_id=["doc"])])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_must_be_finite(value):
    with pytest.raises(NonFiniteScoreError, match="metric 'em', arm 'a', seed 1, example 'x'"):
        one(value)


def test_bad_columns_are_named():
    with pytest.raises(ScoreError, match="Missing columns \\['cluster_id'\\]"):
        ScoreTable(one().frame.drop(columns="cluster_id"))
    with pytest.raises(ScoreError, match=r"seed: expected integers, .* got 1\.5"):
        one(seed=1.5)
    with pytest.raises(ScoreError, match="example_id: 2 entries for 1 values"):
        one(example_id=["x", "y"])
    with pytest.raises(ScoreError, match="value: expected numbers"):
        ScoreTable(one().frame.assign(value=["high"]))
    with pytest.raises(ScoreError, match="'arm' has empty entries"):
        ScoreTable(one().frame.assign(arm=[None]))
    with pytest.raises(ScoreError, match="no tables"):
        ScoreTable.concat([])


def test_one_word_among_figures_is_named():
    """A word in a file makes text of the whole column; the figures before it are not at fault."""
    frame = pd.DataFrame(
        {"arm": "a", "seed": 0, "example_id": list("xyz"), "metric": "em",
         "value": ["0", "1.5", "right"]}
    )  # fmt: skip
    with pytest.raises(ScoreError, match=r"got 'right' of type str at .* example 'z'"):
        ScoreTable.from_columns(**{name: frame[name] for name in frame})


def test_parquet_round_trip(tmp_path):
    table = grid_table()
    table.to_parquet(tmp_path / "scores.parquet")
    assert ScoreTable.from_parquet(tmp_path / "scores.parquet").digest() == table.digest()


def test_errors_pickle():
    error = pickle.loads(pickle.dumps(DuplicateCellError("x")))
    assert isinstance(error, ValueError)
    assert str(error) == "x"


def test_grid_has_seeds_in_rows_and_examples_in_columns():
    grid = paired_grid(grid_table(), "em", "t", "c")
    assert (grid.seeds, grid.unit_ids) == ((1, 3), ("a", "b", "c"))
    expected = [[10 + ord(name) for name in "abc"], [30 + ord(name) for name in "abc"]]
    assert grid.control_SN.tolist() == expected
    assert (grid.difference_SN == 1).all()


def test_select_and_properties():
    table = grid_table()
    assert (table.arms, table.seeds, table.metrics) == (("c", "t"), (1, 3), ("em",))
    assert len(table.select(metric="em", arms=["t"], seeds=[1])) == 3
    assert len(table.select(metric="f1")) == 0


def test_clusters_are_averaged_each_counting_once():
    table = ScoreTable.from_columns(
        arm="a",
        seed=0,
        example_id=["x", "y", "z"],
        cluster_id=["d2", "d1", "d2"],
        metric="em",
        value=[1.0, 5.0, 2.0],
    )
    grid = arm_grid(table, "em", "a")
    assert grid.unit_ids == ("d1", "d2")
    assert grid.values_SN.tolist() == [[5.0, 1.5]]
    assert grid.clustered


def test_missing_cells_are_refused_with_their_names():
    frame = grid_table().frame
    hole = (frame["arm"] == "t") & (frame["seed"] == 3) & (frame["example_id"] == "b")
    with pytest.raises(MissingCellsError, match=r"1 of 6 cells.*seed 3 example 'b'"):
        paired_grid(ScoreTable(frame[~hole]), "em", "t", "c")
    without = ScoreTable(frame[~((frame["arm"] == "t") & (frame["example_id"] == "b"))])
    with pytest.raises(MissingCellsError, match=r"example_ids of 't' and 'c' differ.*'b'"):
        paired_grid(without, "em", "t", "c")
    with pytest.raises(MissingCellsError, match=r"seeds \[1, 3\], planned were \[1, 2, 3\]"):
        paired_grid(grid_table(), "em", "t", "c", seeds=[1, 2, 3])
    with pytest.raises(MissingCellsError, match=r"metric 'f1'.*Known metrics: \['em'\]"):
        paired_grid(grid_table(), "f1", "t", "c")


def test_an_example_stands_in_one_cluster():
    parts = [one(seed=seed, cluster_id=[f"d{seed}"]) for seed in (1, 2)]
    with pytest.raises(ScoreError, match=r"'x' stands in clusters \['d1', 'd2'\]"):
        arm_grid(ScoreTable.concat(parts), "em", "a")
