"""A small version of benchmarks/coverage_study.py: the default interval holds, others do not.

4,000 campaigns a setting: the Monte-Carlo standard error of a coverage of 95 % is 0.34 points, so
the tolerance beyond the band of the study (93.5 to 98.5 %) is 3 x 0.34 = 1.0 points. BCa methods
see 400 campaigns (1.1 points; tolerance 3.3).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
BAND = (0.935, 0.985)
CAMPAIGNS, BCA_CAMPAIGNS = 4000, 400


@pytest.fixture(scope="module")
def study():
    """The modules of the study: what is tested here is what makes the committed figures."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("coverage_study")
    finally:
        sys.path.remove(str(BENCHMARKS))


def pick(study, **wanted):
    """The one setting of the study with these fields."""
    found = [
        (at, setting)
        for at, setting in enumerate(study.all_settings())
        if all(getattr(setting, name) == value for name, value in wanted.items())
    ]
    assert len(found) == 1, found
    return found[0]


SEED_VARIANCE = {"kind": "binary", "seeds": 5, "examples": 200, "base": 0.5, "effect": 0.0,
                 "seed_sd": 0.022, "arm_item": 0.0}  # fmt: skip
CLAIMED = [
    SEED_VARIANCE,
    {**SEED_VARIANCE, "base": 0.05, "effect": 0.015, "arm_item": 0.3},
    {**SEED_VARIANCE, "seeds": 3, "seed_sd": 0.0},
    {"kind": "normal", "seeds": 3, "examples": 200, "seed_sd": 0.2, "arm_item": 1.0,
     "cell_sd": 0.3},
    {"kind": "t3", "seeds": 10, "examples": 200, "seed_sd": 0.05, "arm_item": 1.0},
    {"kind": "lognormal", "seeds": 5, "examples": 200, "seed_sd": 0.05, "arm_item": 0.5,
     "effect": 0.05},
]  # fmt: skip


@pytest.mark.parametrize("wanted", CLAIMED, ids=lambda wanted: f"{wanted['kind']}")
def test_the_default_interval_stays_in_the_band(study, wanted):
    tally = study.run_setting(
        pick(study, **wanted),
        seed=1,
        campaigns=CAMPAIGNS,
        bca_campaigns=1,
        resamples=100,
        methods=["two-way t"],
    )["two-way t"]
    assert tally.campaigns == CAMPAIGNS
    assert tally.undefined == 0
    assert BAND[0] - 0.010 <= tally.coverage <= BAND[1] + 0.010


def test_the_band_can_be_left(study):
    """Example-only BCa, BCa on seed means and the reported interval where seeds differ."""
    found = study.run_setting(
        pick(study, **{**SEED_VARIANCE, "examples": 1000}),
        seed=1,
        campaigns=BCA_CAMPAIGNS,
        bca_campaigns=BCA_CAMPAIGNS,
        resamples=500,
    )
    assert found["example BCa"].coverage < BAND[0] - 0.033
    assert found["seed-mean BCa"].coverage < BAND[0] - 0.033
    assert BAND[0] - 0.033 <= found["crossed BCa"].coverage <= BAND[1] + 0.015
    assert found["crossed BCa"].campaigns == BCA_CAMPAIGNS


def test_three_seeds_without_the_cap_leave_the_band(study, monkeypatch):
    """Satterthwaite's own degrees of freedom, where seeds and examples both vary."""
    monkeypatch.setattr("stats.twoway_many.ENOUGH_SEEDS", 2)
    wanted = {"kind": "normal", "seeds": 3, "examples": 1000, "seed_sd": 0.2, "arm_item": 1.0,
              "cell_sd": 0.3}  # fmt: skip
    tally = study.run_setting(
        pick(study, **wanted),
        seed=1,
        campaigns=CAMPAIGNS,
        bca_campaigns=1,
        resamples=100,
        methods=["two-way t"],
    )["two-way t"]
    assert tally.coverage < BAND[0]


def test_the_settings_are_what_they_say(study):
    """More than 100 settings; the mean of the draws is the truth within Monte-Carlo error."""
    settings = study.all_settings()
    claimed = [setting for setting in settings if setting.block != "stress"]
    assert len(claimed) >= 100
    assert {setting.seeds for setting in claimed} == {3, 5, 10}
    assert {setting.examples for setting in claimed} == {200, 1000}
    for at, setting in enumerate(settings):
        if setting.seeds == 3 and setting.examples == 200:
            means_M = study.draw(setting, 400, np.random.default_rng(at)).mean(axis=(0, 1))
            error = float(means_M.std(ddof=1)) / 20
            assert float(means_M.mean()) == pytest.approx(setting.truth, abs=4.5 * error), setting


def test_figures_do_not_depend_on_the_order_of_work(study):
    at_setting = pick(study, **SEED_VARIANCE)
    options = {"seed": 3, "campaigns": 60, "bca_campaigns": 40, "resamples": 100}
    first = study.run_setting(at_setting, **options)
    study.run_setting(pick(study, **CLAIMED[1]), **options)
    assert study.run_setting(at_setting, **options) == first
