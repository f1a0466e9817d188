from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from stats import naive
from stats.errors import StatsError
from stats.fdr import benjamini_hochberg, benjamini_yekutieli, fcr_level

P = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(p=P)
def test_equals_scipy_and_the_loops(p):
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p, method="bh"))
    assert benjamini_yekutieli(p) == pytest.approx(false_discovery_control(p, method="by"))
    assert benjamini_hochberg(p) == pytest.approx(naive.benjamini_hochberg(p))


@settings(max_examples=50, deadline=None)
@given(p=P, rng_seed=st.integers(0, 99))
def test_order_does_not_matter(p, rng_seed):
    order = np.random.default_rng(rng_seed).permutation(len(p))
    assert (benjamini_hochberg(p)[order] == benjamini_hochberg([p[i] for i in order])).all()


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.5, float("inf")])
def test_what_is_no_p_value_is_refused(bad):
    with pytest.raises(StatsError, match="p-value number 2 is"):
        benjamini_hochberg([0.5, bad])


def test_fcr_level():
    assert fcr_level(2, 5) == pytest.approx(0.98)
    assert fcr_level(5, 5) == pytest.approx(0.95)
    with pytest.raises(StatsError):
        fcr_level(6, 5)
