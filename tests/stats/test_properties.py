"""Properties of the two-way t, the crossed BCa and score tables, on grids that hypothesis makes.

Every strange input gives the right answer or a `StatsError`; never a silent number.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stats.bootstrap import CrossedResamples, crossed_bca
from stats.errors import (
    DegenerateDataError,
    MagnitudeError,
    NonFiniteScoreError,
    ScoreError,
    StatsError,
)
from stats.ratios import infer_ratio, weighted_mean_bca
from stats.scores import ScoreTable, arm_grid
from stats.twoway import two_way

FIXED = settings(derandomize=True, deadline=None, database=None, max_examples=40)
SHAPES = st.tuples(st.integers(2, 4), st.integers(2, 7))
PLAIN = st.floats(-100, 100, width=32)
FEW = st.sampled_from([0.0, 1.0])
EXTREME = st.sampled_from(
    [0.0, 1.0, -1.0, 5e-324, 1e-200, -1e-80, 1e-60, 1e60, -1e80, 1e200, -1.7e308, 1e15, 1.0 + 1e-15]
)
GRIDS = arrays(np.float64, SHAPES, elements=PLAIN)
BINARY = arrays(np.float64, SHAPES, elements=FEW)
TINY_TO_50 = st.one_of(st.floats(0, 50), st.sampled_from([0.0, 1.0, 2e-313, 1e-60, 1e-71]))
STRANGE = arrays(np.float64, SHAPES, elements=EXTREME)
RESAMPLER = CrossedResamples(rng_seed=3, resamples=120)


@st.composite
def weighted(draw):
    """A grid and a size for each of its units."""
    values_SN = draw(st.one_of(GRIDS, BINARY))
    sizes_N = draw(arrays(np.int64, values_SN.shape[1], elements=st.integers(1, 60)))
    return values_SN, sizes_N.astype(float)


def scale_of(values_SN):
    return float(np.abs(values_SN).max()) + 1e-9


@settings(FIXED)
@given(pair=weighted(), shift=st.integers(-50, 50), scale=st.sampled_from([0.25, 2.0, -4.0]))
def test_weighted_shift_scale_and_sign(pair, shift, scale):
    values_SN, sizes_N = pair
    plain = two_way(values_SN, sizes_N)
    moved = two_way(values_SN * scale + shift, sizes_N)
    size = scale_of(values_SN) * abs(scale) + abs(shift) + 1
    assert moved.estimate == pytest.approx(plain.estimate * scale + shift, abs=1e-11 * size)
    assert moved.standard_error == pytest.approx(
        abs(scale) * plain.standard_error, rel=1e-6, abs=1e-7 * size
    )


@settings(FIXED)
@given(pair=weighted(), rng_seed=st.integers(0, 99))
def test_weighted_order_of_seeds_and_units_does_not_matter(pair, rng_seed):
    values_SN, sizes_N = pair
    rng = np.random.default_rng(rng_seed)
    rows, columns = (rng.permutation(size) for size in values_SN.shape)
    plain = two_way(values_SN, sizes_N)
    mixed = two_way(values_SN[rows][:, columns], sizes_N[columns])
    assert mixed.estimate == pytest.approx(plain.estimate, abs=1e-12 * scale_of(values_SN))
    assert mixed.standard_error == pytest.approx(
        plain.standard_error, rel=1e-6, abs=1e-7 * scale_of(values_SN)
    )


@settings(FIXED)
@given(values_SN=GRIDS, size=st.sampled_from([1.0, 7.0, 0.5]))
def test_equal_sizes_are_the_unweighted_analysis(values_SN, size):
    plain = two_way(values_SN)
    same = two_way(values_SN, np.full(values_SN.shape[1], size))
    near = scale_of(values_SN)
    assert same.estimate == pytest.approx(plain.estimate, abs=1e-12 * near)
    assert same.standard_error == pytest.approx(plain.standard_error, rel=1e-7, abs=1e-7 * near)
    if plain.standard_error > 1e-6 * near:
        assert same.df == pytest.approx(plain.df, rel=1e-6)
        for name in ("seed", "example", "residual"):
            ours, theirs = (getattr(found.components, name) for found in (same, plain))
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9 * near**2)


@settings(FIXED)
@given(pair=weighted())
def test_weighted_mean_is_the_mean_over_examples(pair):
    values_SN, sizes_N = pair
    every = np.repeat(values_SN, sizes_N.astype(int), axis=1)
    found = two_way(values_SN, sizes_N)
    assert found.estimate == pytest.approx(every.mean(), abs=1e-11 * scale_of(values_SN))
    assert found.seed_means == pytest.approx(
        tuple(every.mean(axis=1)), abs=1e-11 * scale_of(values_SN)
    )


@settings(FIXED, max_examples=150)
@given(values_SN=STRANGE, sized=st.booleans())
def test_strange_magnitudes_are_right_or_refused(values_SN, sized):
    sizes_N = np.arange(1.0, values_SN.shape[1] + 1) if sized else None
    with np.errstate(all="raise", under="ignore"):
        try:
            found = two_way(values_SN, sizes_N)
        except MagnitudeError:
            largest = float(np.abs(values_SN).max())
            assert largest > 1e70 or 0 < float(np.ptp(values_SN)) < 1e-70
            return
    parts = found.components
    for number in (found.estimate, found.standard_error, found.df, parts.seed, parts.residual):
        assert math.isfinite(number)
    low, high = float(values_SN.min()), float(values_SN.max())
    assert low - abs(low) * 1e-12 <= found.estimate <= high + abs(high) * 1e-12
    if low == high:
        assert found.degenerate


@settings(FIXED, max_examples=30)
@given(values_SN=GRIDS, power=st.sampled_from([-60, -30, 30, 60]))
def test_units_of_measure_do_not_matter(values_SN, power):
    """A power of two changes no digit; large ones would overflow if squares did."""
    scale = 2.0**power
    plain, moved = two_way(values_SN), two_way(values_SN * scale)
    assert moved.estimate == plain.estimate * scale
    assert moved.standard_error == pytest.approx(plain.standard_error * scale, rel=1e-12)
    if not plain.degenerate:
        assert moved.df == pytest.approx(plain.df, rel=1e-9)


@settings(FIXED)
@given(values_SN=GRIDS, bad=st.sampled_from([np.nan, np.inf, -np.inf]), at=st.integers(0, 1000))
def test_one_bad_cell_is_refused_wherever_it_is(values_SN, bad, at):
    values_SN.flat[at % values_SN.size] = bad
    with pytest.raises(DegenerateDataError, match="NaN or infinite"):
        two_way(values_SN)


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, 0.0, 2.0], [1.0, -1.0, 2.0], [1.0, np.nan, 2.0], [1.0, np.inf, 1.0]]
)
def test_weights_that_are_no_sizes_are_refused(weights):
    with pytest.raises(DegenerateDataError, match="weights"):
        two_way(np.arange(6.0).reshape(2, 3), np.array(weights))


def bootstrap(values_SN):
    """The interval, or None where it is refused."""
    try:
        return crossed_bca(values_SN, RESAMPLER)
    except DegenerateDataError:
        return None


@settings(FIXED)
@given(values_SN=st.one_of(GRIDS, BINARY), shift=st.integers(-50, 50))
def test_bca_shift_scale_and_duplicates(values_SN, shift):
    plain = bootstrap(values_SN)
    again = bootstrap(values_SN.copy())
    assert again == plain
    moved = bootstrap(values_SN * 4.0 + shift)
    assert (moved is None) == (plain is None)
    if plain is not None:
        size = 4 * scale_of(values_SN) + abs(shift)
        assert plain.low_error >= 0
        assert plain.high_error >= 0
        assert moved.low == pytest.approx(plain.low * 4 + shift, abs=1e-7 * size)
        assert moved.high == pytest.approx(plain.high * 4 + shift, abs=1e-7 * size)


@settings(FIXED)
@given(values_SN=GRIDS)
def test_bca_of_turned_signs_is_the_turned_interval(values_SN):
    plain, turned = bootstrap(values_SN), bootstrap(-values_SN)
    assert (turned is None) == (plain is None)
    if plain is not None:
        near = 1e-6 * scale_of(values_SN)
        assert turned.low == pytest.approx(-plain.high, abs=near)
        assert turned.high == pytest.approx(-plain.low, abs=near)


@settings(FIXED)
@given(first=st.one_of(GRIDS, BINARY), rng_seed=st.integers(0, 9))
def test_two_metrics_of_one_shape_see_the_same_resamples(first, rng_seed):
    """What the bootstrap of a ratio relies on."""
    second = np.random.default_rng(rng_seed).integers(0, 2, first.shape).astype(float)
    sums_B = RESAMPLER.replicates(first).values_B + RESAMPLER.replicates(second).values_B
    both_B = RESAMPLER.replicates(first + second).values_B
    assert both_B == pytest.approx(sums_B, abs=1e-9 * (1 + scale_of(first)))


@settings(FIXED, max_examples=25)
@given(pair=weighted())
def test_weighted_bca_with_equal_sizes_is_the_plain_one(pair):
    values_SN, sizes_N = pair
    analysis = two_way(values_SN)
    assume(analysis.standard_error > 1e-3 * scale_of(values_SN))
    plain = bootstrap(values_SN)
    assume(plain is not None)
    same = weighted_mean_bca(
        values_SN, np.full(len(sizes_N), 3.0), RESAMPLER, level=0.95, analysis=analysis
    )
    assert same.low == pytest.approx(plain.low, abs=1e-6 * scale_of(values_SN))
    assert same.high == pytest.approx(plain.high, abs=1e-6 * scale_of(values_SN))


@settings(FIXED, max_examples=25)
@given(
    grids=SHAPES.flatmap(
        lambda shape: st.tuples(*[arrays(np.float64, shape, elements=TINY_TO_50)] * 2)
    ),
    scale=st.sampled_from([0.5, 8.0]),
)
def test_ratio_of_means_scales_and_inverts(grids, scale):
    top_SN, bottom_SN = grids
    try:
        found = infer_ratio(top_SN, bottom_SN, RESAMPLER)
        scaled = infer_ratio(top_SN * scale, bottom_SN, RESAMPLER)
        turned = infer_ratio(bottom_SN, top_SN, RESAMPLER)
    except StatsError:
        return
    if found.ratio is None:
        assert found.why
        assert found.interval is None
        assert found.bootstrap is None
        assert min(top_SN.mean(), bottom_SN.mean()) < 1e-70
        return
    if scaled.ratio is None:
        return
    assert found.ratio == pytest.approx(top_SN.mean() / bottom_SN.mean(), rel=1e-9)
    assert scaled.ratio == pytest.approx(found.ratio * scale, rel=1e-9)
    assert turned.ratio == pytest.approx(1 / found.ratio, rel=1e-9)
    if found.interval is not None and found.interval.high < 1e100:
        slack = 1 + 1e-9
        assert 0 <= found.interval.low <= found.ratio * slack
        assert found.ratio <= found.interval.high * slack
        assert turned.interval.low == pytest.approx(1 / found.interval.high, rel=1e-3)
    if found.bootstrap is not None:
        assert 0 <= found.bootstrap.low <= found.bootstrap.high
        assert found.bootstrap.low_error >= 0


def columns(**changes):
    base = {
        "arm": "a",
        "seed": 0,
        "example_id": ["x", "y"],
        "metric": "em",
        "value": [0.0, 1.0],
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (["0.5", "1"], ScoreError),
        (np.array(["0.5", 1.0], dtype=object), ScoreError),
        ([b"1", b"0"], ScoreError),
        ([1 + 2j, 0], ScoreError),
        (np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ns]"), ScoreError),
        (np.array([10**400, 1], dtype=object), ScoreError),
        ([[0.0], [1.0]], ScoreError),
        ([np.nan, 1.0], NonFiniteScoreError),
        ([1.0, np.inf], NonFiniteScoreError),
        ([None, 1.0], NonFiniteScoreError),
        (pd.array([1, None], dtype="Int64"), NonFiniteScoreError),
    ],
)
def test_what_is_no_finite_number_is_refused_as_a_score(value, error):
    with pytest.raises(error, match=r"value|finite"):
        ScoreTable.from_columns(**columns(value=value))


@pytest.mark.parametrize(
    "value", [[False, True], np.array([0, 1], dtype=np.int8), np.array([0.0, True], dtype=object)]
)
def test_booleans_and_integers_are_scores(value):
    table = ScoreTable.from_columns(**columns(value=value))
    assert table.frame["value"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("seed", [0.5, np.nan, "first", 2**60, -(2**60), None])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(ScoreError, match="seed"):
        ScoreTable.from_columns(**columns(seed=[seed, seed]))


@pytest.mark.parametrize("seed", [3, np.int64(3), [3, 3], ["3", "3"], np.array([3, 3])])
def test_integers_of_any_kind_are_seeds(seed):
    assert ScoreTable.from_columns(**columns(seed=seed)).seeds == (3,)


@settings(FIXED)
@given(
    cells=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([0.0, 1.0])),
        min_size=1,
        max_size=14,
    ),
    rng_seed=st.integers(0, 99),
)
def test_repeated_cells_agree_or_are_refused_in_every_order(cells, rng_seed):
    seeds, items, values = zip(*cells, strict=True)
    names = [f"e{item}" for item in items]

    def make(order):
        frame = pd.DataFrame(
            {"arm": "a", "seed": seeds, "example_id": names, "cluster_id": names, "metric": "em",
             "value": values}
        )  # fmt: skip
        return ScoreTable(frame.iloc[order])

    known: dict[tuple[int, int], set[float]] = {}
    for seed, item, value in cells:
        known.setdefault((seed, item), set()).add(value)
    order = np.random.default_rng(rng_seed).permutation(len(cells))
    if any(len(found) > 1 for found in known.values()):
        with pytest.raises(ScoreError, match="came twice and disagree"):
            make(order)
        return
    table = make(order)
    assert len(table) == len(known)
    assert table.digest() == make(np.arange(len(cells))).digest()
    num_seeds, num_items = len(set(seeds)), len(set(items))
    if len(known) == num_seeds * num_items:
        grid = arm_grid(table, "em", "a")
        assert grid.values_SN.shape == (num_seeds, num_items)
    else:
        with pytest.raises(StatsError, match="missing"):
            arm_grid(table, "em", "a")
