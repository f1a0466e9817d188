from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import gamma
from scipy.stats import nct

from stats.effects import d_z, effect_sizes, hedges_j, noncentrality_interval


def standardised(num, mean):
    """Values with standard deviation 1 and this mean."""
    values = np.arange(num, dtype=float)
    return (values - values.mean()) / values.std(ddof=1) + mean


def test_five_seeds_with_d_of_one_say_almost_nothing():
    low, high = noncentrality_interval(math.sqrt(5), 4)
    assert (low / math.sqrt(5), high / math.sqrt(5)) == pytest.approx((-0.14, 2.07), abs=0.01)


def test_interval_inverts_the_noncentral_t():
    for t, df in ((2.2, 4), (-1.0, 9), (30.0, 999), (60.0, 4), (-55.0, 4)):
        low, high = noncentrality_interval(t, df)
        assert nct.sf(t, df, low) == pytest.approx(0.025, abs=1e-6)
        assert nct.cdf(t, df, high) == pytest.approx(0.025, abs=1e-6)


def test_hedges_correction_closed_form():
    for df in (4, 10, 60):
        expected = gamma(df / 2) / (math.sqrt(df / 2) * gamma((df - 1) / 2))
        assert hedges_j(df) == pytest.approx(expected, rel=1e-12)
    assert hedges_j(4) == pytest.approx(1 - 3 / (4 * 4 - 1), abs=0.003)


def test_names_and_definitions():
    rng = np.random.default_rng(0)
    control = rng.normal(size=(5, 60))
    treatment = control + 0.3 + 0.5 * rng.normal(size=(5, 60))
    found = {(e.name, e.unit): e for e in effect_sizes(treatment, control)}
    t, c = treatment.mean(axis=0), control.mean(axis=0)
    j = hedges_j(59)
    sd = [float(np.std(x, ddof=1)) for x in (t - c, t, c)]
    mean = float((t - c).mean())
    assert found["d_z", "examples"].value == pytest.approx(j * mean / sd[0])
    assert found["d_av", "examples"].value == pytest.approx(j * mean / ((sd[1] + sd[2]) / 2))
    pooled = math.sqrt((sd[1] ** 2 + sd[2] ** 2) / 2)
    assert found["d_pooled", "examples"].value == pytest.approx(j * mean / pooled)
    seeds = (treatment - control).mean(axis=1)
    expected = hedges_j(4) * float(seeds.mean() / seeds.std(ddof=1))
    assert found["d_z", "seeds"].value == pytest.approx(expected)
    for effect in found.values():
        assert effect.low < effect.value < effect.high


def test_nothing_varies_gives_no_effect_size():
    assert d_z(np.full(5, 0.1), unit="seeds") is None
    assert effect_sizes(np.ones((5, 8)), np.zeros((5, 8))) == ()
    assert d_z(standardised(5, 1.0), unit="seeds").value == pytest.approx(hedges_j(4))
