"""Sizes that would decide: they follow the level, and what a family asks for."""

from __future__ import annotations

import numpy as np
import pytest

from stats.deciding import deciding_sizes
from stats.family import needed_p
from stats.fdr import benjamini_hochberg
from stats.power import mde
from stats.twoway import VarianceComponents

PARTS = VarianceComponents(seed=0.0002, example=0.02, residual=0.05)


@pytest.mark.parametrize("alpha", [0.025, 0.005, 0.0005])
def test_sizes_detect_the_distance_at_their_level(alpha):
    found = deciding_sizes(PARTS, 5, 500, assumed=0.03, margin=0.0, alpha=alpha, power=0.8)
    assert found.seeds_at_these_examples is not None
    assert found.cheapest_seeds is not None
    assert found.cheapest_examples is not None
    for seeds, units in (
        (found.seeds_at_these_examples, 500),
        (found.cheapest_seeds, found.cheapest_examples),
    ):
        assert mde(PARTS, seeds, units, alpha=alpha) <= 0.03
    assert mde(PARTS, found.seeds_at_these_examples - 1, 500, alpha=alpha) > 0.03


def test_a_stricter_level_asks_for_more():
    loose, strict = (
        deciding_sizes(PARTS, 5, 500, assumed=0.03, margin=0.0, alpha=alpha, power=0.8)
        for alpha in (0.025, 0.005)
    )
    assert loose.seeds_at_these_examples < strict.seeds_at_these_examples
    assert loose.text != strict.text


def test_needed_p_is_where_benjamini_hochberg_turns():
    """Against the procedure itself: just below is selected, just above is not."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        p = list(rng.beta(0.4, 1.0, size=rng.integers(1, 8)))
        at = int(rng.integers(len(p)))
        turn = needed_p(p, at, 0.05)
        for value, selected in ((turn * (1 - 1e-9), True), (turn * (1 + 1e-9), False)):
            changed = [value if number == at else one for number, one in enumerate(p)]
            assert (benjamini_hochberg(changed)[at] <= 0.05) is np.bool_(selected)
