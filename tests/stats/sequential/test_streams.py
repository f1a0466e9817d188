"""The confidence sequence: its width, and coverage at all times at once by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from stats.errors import DegenerateDataError
from stats.sequential.streams import boundary, confidence_sequence


def test_width_at_its_best_is_1_55_of_the_normal_interval():
    fixed = ndtri(0.975) / np.sqrt(1480)
    half = boundary([1480], level=0.95, tightest_at=1480)[0]
    assert half / fixed == pytest.approx(1.55, abs=0.005)
    others = [boundary([1480], level=0.95, tightest_at=at)[0] for at in (700, 1400, 1560, 3000)]
    assert min(others) > 0.9999 * half


def test_moments_are_those_of_the_prefix():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=300)
    found = confidence_sequence(values, first=30)
    at = 120 - 30
    assert found.times_T[at] == 120
    assert found.mean_T[at] == pytest.approx(values[:120].mean())
    half = values[:120].std() * boundary([120], level=0.95, tightest_at=300)[0]
    assert found.high_T[at] - found.mean_T[at] == pytest.approx(half)


@pytest.mark.parametrize("kind", ["paired binary", "skewed", "drifting"])
def test_coverage_at_all_times_by_simulation(kind):
    """600 streams of 1,000 examples; a miss at any time counts. 5 % +- 3 Monte-Carlo errors is
    7.7 %; watching the fixed-sample interval instead misses several times as often."""
    rng = np.random.default_rng(8)
    missed = naive = 0
    for _ in range(600):
        truth = np.zeros(1000)
        if kind == "paired binary":
            values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=1000)
        elif kind == "skewed":
            values = rng.exponential(size=1000) - 1.0
        else:
            # The gain grows along the stream, as a learner's does; it covers the running mean.
            gain = np.linspace(0.0, 0.3, 1000)
            values = (rng.random(1000) < 0.3 + gain) - (rng.random(1000) < 0.3).astype(float)
            truth = np.cumsum(gain) / np.arange(1, 1001)
        found = confidence_sequence(values, first=50)
        target = truth[49:]
        missed += bool(((found.low_T > target) | (found.high_T < target)).any())
        factor = boundary(found.times_T, level=0.95, tightest_at=1000)
        fixed = (found.high_T - found.mean_T) / factor * ndtri(0.975) / np.sqrt(found.times_T)
        naive += bool((np.abs(found.mean_T - target) > fixed).any())
    assert missed / 600 <= 0.077
    assert naive / 600 > 0.2


def test_when_zero_is_left():
    values = np.random.default_rng(2).normal(0.5, 1.0, size=500)
    found = confidence_sequence(values)
    first = found.excludes_zero_from
    assert first is not None
    assert found.low_T[first - 50] > 0 >= found.low_T[: first - 50].max()
    assert confidence_sequence(values - values.mean()).excludes_zero_from is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(200), "no variance yet"),
        (np.arange(20.0), "cannot start at 50"),
        (np.full(100, np.nan), "NaN"),
        (np.ones((50, 2)), "shape"),
    ],
)
def test_streams_that_give_nothing(values, message):
    with pytest.raises(DegenerateDataError, match=message):
        confidence_sequence(values)
