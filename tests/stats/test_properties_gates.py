"""Properties of every gate kind and of `compare`, on grids that hypothesis makes.

Whatever the scores, a gate gives a result whose figures are finite or absent, and whose decision
follows from them; scores that it cannot judge are INVALID or INCONCLUSIVE with a reason.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from gate_cases import CASES, run, table_of
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import nct

import stats
from stats.effects import d_z, effect_sizes, hedges_j
from stats.errors import StatsError
from stats.result import GateResult

FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=15,
    phases=(Phase.explicit, Phase.generate),
)
"""Without shrinking: a failure shows its example as it was found, in seconds."""
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6))
ELEMENTS = [
    st.sampled_from([0.0, 1.0]),
    st.floats(-50, 50, width=32),
    st.floats(0.125, 50, width=32),
    st.sampled_from([0.0, 1.0, 1e-200, 1e-60, -1e60, 1e90, -1.7e308, 1e15, 1.0 + 1e-15, 5e-324]),
]
SCORED = sorted(set(CASES) - {"exact"})


@st.composite
def scores_for(draw, kind, elements=None):
    """Scores of the metrics and arms that the kind's case reads."""
    shape = draw(SHAPES)
    cells = draw(st.sampled_from(ELEMENTS)) if elements is None else elements
    names = CASES[kind].grids(0.1, np.random.default_rng(0))
    clusters = None
    if draw(st.booleans()):
        clusters = [f"k{draw(st.integers(0, 3))}" for _ in range(shape[1])]
    grids = {
        metric: {
            arm: draw(
                arrays(
                    np.float64,
                    shape,
                    elements=st.sampled_from([0.0, 1.0]) if metric.endswith("_event") else cells,
                )
            )
            for arm in arms
        }
        for metric, arms in names.items()
    }
    if draw(st.booleans()):  # the arms agree everywhere
        first = next(iter(grids.values()))
        grids = {metric: dict.fromkeys(arms, first["t"]) for metric, arms in grids.items()}
    return table_of(grids, clusters)


def floats_of(value):
    if isinstance(value, dict):
        return [number for item in value.values() for number in floats_of(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in floats_of(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("kind", SCORED)
def test_any_scores_give_a_result_that_holds_together(kind):
    @settings(FIXED, max_examples=60)
    @given(scores=scores_for(kind))
    def check(scores):
        with np.errstate(all="raise", under="ignore"):
            found = run(CASES[kind].gate(), scores)
        assert found.estimand
        assert found.criterion
        assert found.reason
        assert all(math.isfinite(number) for number in floats_of(found.to_dict()))
        assert GateResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found
        if found.interval is not None:
            assert found.interval.low < found.interval.high
            slack = 1e-9 * (abs(found.interval.low) + abs(found.interval.high))
            assert found.interval.low - slack <= found.estimate <= found.interval.high + slack
        else:
            assert found.decision in ("INVALID", "INCONCLUSIVE")
            assert found.p_value is None
        if found.p_value is not None:
            assert 0.0 <= found.p_value <= 1.0
        if found.decision == "PASS":
            assert found.p_value < 0.025
        if found.decision == "INCONCLUSIVE":
            known = found.mde is not None and found.would_decide is not None
            assert known or "at least 2 x 2" in found.reason

    check()


@pytest.mark.parametrize("kind", SCORED)
def test_a_constant_column_or_a_duplicated_metric_changes_nothing_else(kind):
    """Another metric beside it, equal or constant, leaves the result bit for bit."""

    @settings(FIXED, max_examples=8)
    @given(scores=scores_for(kind, st.floats(0.125, 50, width=32)))
    def check(scores):
        frame = scores.frame
        other = frame.assign(metric="copy of " + frame["metric"])
        flat = frame.assign(metric="flat " + frame["metric"], value=1.0)
        both = stats.ScoreTable.concat([scores, stats.ScoreTable(other), stats.ScoreTable(flat)])
        assert run(CASES[kind].gate(), both) == run(CASES[kind].gate(), scores)

    check()


@settings(FIXED, max_examples=25)
@given(
    grids=st.tuples(st.integers(2, 4), st.integers(2, 8)).flatmap(
        lambda shape: st.tuples(
            *[arrays(np.float64, shape, elements=st.floats(-50, 50, width=32))] * 2
        )
    ),
    shift=st.integers(-20, 20),
    scale=st.sampled_from([0.5, 8.0]),
)
def test_compare_shift_scale_and_swap(grids, shift, scale):
    treatment, control = grids
    plain = stats.compare(treatment=treatment, control=control, resamples=60)
    moved = stats.compare(
        treatment=treatment * scale + shift, control=control * scale + shift, resamples=60
    )
    swapped = stats.compare(
        treatment=control, control=treatment, higher_is_better=False, resamples=60
    )
    size = scale * 100 + abs(shift)
    assert moved.estimate == pytest.approx(plain.estimate * scale, abs=1e-10 * size)
    assert swapped.estimate == pytest.approx(plain.estimate, abs=1e-10 * size)
    spread = plain.result.standard_error
    assume(spread > 1e-6 * size)
    assert moved.p_value == pytest.approx(plain.p_value, abs=1e-6)
    assert swapped.p_value == pytest.approx(plain.p_value, abs=1e-6)
    assert swapped.decision == plain.decision


@settings(FIXED, max_examples=25)
@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    at=st.integers(0, 1000),
    in_control=st.booleans(),
)
def test_compare_names_the_cell_that_is_not_finite(value, at, in_control):
    grids = [np.random.default_rng(0).normal(size=(3, 7)) for _ in range(2)]
    grids[in_control].flat[at % 21] = value
    with pytest.raises(StatsError, match=r"not finite; first: .*arm '(treatment|control)', seed"):
        stats.compare(treatment=grids[0], control=grids[1])


@pytest.mark.parametrize(
    ("treatment", "control"),
    [
        ([["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]]),
        ([["1", "2"], ["3", "4"]], [["1", "2"], ["3", "4"]]),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]]),
        ([[[1.0]]], [[[1.0]]]),
        ([], []),
        ([[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_compare_refuses_what_is_no_grid_of_numbers(treatment, control):
    with pytest.raises(StatsError):
        stats.compare(treatment=treatment, control=control)


SAMPLES = arrays(
    np.float64,
    st.integers(2, 12),
    elements=st.one_of(
        st.floats(-50, 50, width=32), st.sampled_from([0.0, 1e15, 1.0 + 1e-15, 1e-60, 1e60])
    ),
)


@settings(FIXED, max_examples=60)
@given(values=SAMPLES)
def test_d_z_is_the_standardised_mean_and_inverts_the_noncentral_t(values):
    """Both limits against scipy's noncentral t, whose own inversion is not used here."""
    found = d_z(values, unit="seeds")
    if found is None:
        assert float(np.ptp(values)) <= 1e-12 * float(np.abs(values).max())
        return
    num = len(values)
    plain = values.mean() / values.std(ddof=1)
    assert found.value == pytest.approx(hedges_j(num - 1) * plain, rel=1e-6, abs=1e-9)
    assert found.low <= found.value / hedges_j(num - 1) + 1e-9
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)
    t = float(plain * math.sqrt(num))
    if abs(t) < 15:
        for limit, tail in ((found.low, 0.975), (found.high, 0.025)):
            shift = limit / hedges_j(num - 1) * math.sqrt(num)
            assert nct.cdf(t, num - 1, shift) == pytest.approx(tail, abs=1e-5)


@settings(FIXED, max_examples=25)
@given(values=arrays(np.float64, (2, 3, 9), elements=st.floats(-50, 50, width=32)))
def test_effect_sizes_do_not_change_with_the_unit_of_measure(values):
    treatment, control = values
    plain = effect_sizes(treatment, control)
    moved = effect_sizes(treatment * 8 + 3, control * 8 + 3)
    turned = effect_sizes(-treatment, -control)
    assume(float(np.abs((treatment - control).mean(axis=0)).max()) > 1e-3)
    assert [size.name for size in moved] == [size.name for size in plain]
    for before, after, mirrored in zip(plain, moved, turned, strict=True):
        assume(abs(before.value) < 100)
        assert after.value == pytest.approx(before.value, rel=1e-6, abs=1e-6)
        assert mirrored.value == pytest.approx(-before.value, rel=1e-6, abs=1e-6)
        assert mirrored.low == pytest.approx(-before.high, rel=1e-5, abs=1e-5)
