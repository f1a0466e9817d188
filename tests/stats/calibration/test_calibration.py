"""A small A/A calibration: rates within their Monte-Carlo error, and a badge that can go stale."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from stats.calibration import badge as badge_module
from stats.calibration.badge import (
    Badge,
    load_badge,
    source_digest,
    source_files,
    standing,
)
from stats.calibration.campaign import Figures, Rate, RegimeRate, run_campaigns
from stats.calibration.regimes import REGIMES, draw
from stats.errors import StatsError
from stats.twoway import two_way

CAMPAIGNS = 40


@pytest.fixture(scope="module")
def figures() -> Figures:
    return run_campaigns(CAMPAIGNS, rng_seed=3, items=150)


def test_identical_arms_are_promoted_at_the_nominal_rate(figures: Figures) -> None:
    # 200 missions at 2.5 %: 3 Monte-Carlo standard errors reach up to 5.8 %.
    allowed = 0.025 + 3 * math.sqrt(0.025 * 0.975 / (CAMPAIGNS * len(REGIMES)))
    assert figures.false_promotion.value <= allowed
    assert figures.false_rejection.value <= allowed
    assert figures.false_promotion.value + figures.false_rejection.value > 0
    assert figures.family_of_nulls.value <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / CAMPAIGNS)
    assert figures.false_discovery.value <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / CAMPAIGNS)
    assert figures.holds
    pooled = np.mean([item.rate.value for item in figures.by_regime])
    assert figures.false_promotion.value == pytest.approx(pooled)


def test_the_same_arguments_give_the_same_figures() -> None:
    assert run_campaigns(3, rng_seed=3, items=60) == run_campaigns(3, rng_seed=3, items=60)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_arms_of_a_regime_differ_by_their_effect_alone(regime) -> None:
    rng = np.random.default_rng(0)
    pairs = [draw(regime, rng, effect=regime.effect) for _ in range(60)]
    found = np.array([left.mean() - right.mean() for left, right in pairs])
    assert found.mean() == pytest.approx(regime.effect, abs=4 * found.std() / math.sqrt(60))
    controls = np.array([right.mean() for _, right in pairs])
    assert controls.mean() == pytest.approx(regime.level, abs=4 * controls.std() / math.sqrt(60))
    errors = [two_way(left - right).standard_error for left, right in pairs[:20]]
    if not regime.clustered:
        # The analysis knows how far the estimates scatter (never less, by a quarter at most).
        assert 0.75 * found.std() < np.mean(errors) < 1.5 * found.std()


def test_a_pipeline_that_promotes_too_much_does_not_hold(figures: Figures) -> None:
    loose = dataclasses.replace(figures, false_promotion=Rate(value=0.08, error=0.01, count=1000))
    assert not loose.holds
    bad = RegimeRate(regime="binary, rare", rate=Rate(value=0.2, error=0.05, count=60))
    assert not dataclasses.replace(figures, by_regime=(*figures.by_regime[1:], bad)).holds


def test_a_badge_is_calibrated_stale_failed_or_missing(figures: Figures, tmp_path: Path) -> None:
    path = tmp_path / "badge.json"
    assert standing(path).word == "missing"
    badge = Badge(
        figures=figures,
        holds=True,
        source_digest=source_digest(),
        source_files=("stats/verdict.py",),
        commit="c" * 40,
        dirty=False,
        date="2026-01-02T03:04:05+00:00",
        command="python fleet.py calibrate",
        cpu_s=1.0,
        real={"verdict": "INCONCLUSIVE"},
    )
    badge.save(path)
    assert load_badge(path) == badge
    assert standing(path).word == "calibrated"
    assert "over 40 simulated campaigns of 5 missions" in standing(path).text
    assert "real A/A campaign: INCONCLUSIVE" in standing(path).text
    dataclasses.replace(badge, source_digest="0" * 64).save(path)
    assert standing(path).word == "stale"
    dataclasses.replace(badge, holds=False).save(path)
    assert standing(path).word == "failed"
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(StatsError, match="format 99"):
        standing(path)
    path.write_text("{}")
    with pytest.raises(StatsError, match="not a calibration badge"):
        standing(path)


def test_the_digest_covers_what_a_verdict_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {path.relative_to(badge_module.PACKAGE).as_posix() for path in source_files()}
    for needed in ("verdict.py", "twoway.py", "fdr.py", "scores.py", "gates/superiority.py"):
        assert needed in names
    assert not any(name.startswith(("report/", "sources/")) for name in names)
    copy = tmp_path / "stats"
    for path in source_files():
        target = copy / path.relative_to(badge_module.PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    before = source_digest()
    monkeypatch.setattr(badge_module, "PACKAGE", copy)
    assert source_digest() == before
    with (copy / "twoway.py").open("a") as stream:
        stream.write("\n# changed\n")
    assert source_digest() != before


def test_the_packaged_badge_holds() -> None:
    badge = load_badge()
    assert badge is not None
    assert badge.holds
    assert badge.figures.campaigns >= 2000
    assert standing().word in ("calibrated", "stale")
