"""The public front door: one answer from tables, arrays and score tables, or one clear line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

import stats
from stats.errors import GateError, ScoreError, StatsError


def pair(seed: int = 0, *, seeds: int = 5, examples: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    item_N = rng.normal(size=examples)
    control = item_N + rng.normal(size=(seeds, examples))
    treatment = (
        item_N + 0.3 + 0.1 * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, examples))
    )
    return treatment, control


def long(treatment: np.ndarray, control: np.ndarray) -> pd.DataFrame:
    rows = [
        {"model": arm, "run": 10 + s, "doc": f"d{i:03d}", "right": grid[s, i]}
        for arm, grid in (("new", treatment), ("old", control))
        for s in range(grid.shape[0])
        for i in range(grid.shape[1])
    ]
    return pd.DataFrame(rows).sample(frac=1.0, random_state=3)


NAMES = {"arm": "model", "seed": "run", "example_id": "doc", "value": "right"}


def test_arrays_tables_and_score_tables_give_the_same_figures_to_the_last_bit() -> None:
    treatment, control = pair()
    arrays = stats.compare(treatment=treatment, control=control, resamples=500)
    named = stats.compare({"new": treatment, "old": control}, "new", "old", resamples=500)
    frame = long(treatment, control)
    table = stats.compare(frame, "new", "old", columns=NAMES, resamples=500)
    made = stats.as_scores(frame, columns=NAMES)
    direct = stats.compare(made, "new", "old", metric="score", resamples=500)
    analysis = stats.two_way(treatment - control)
    for found in (arrays, named, table, direct):
        assert found.decision == "PASS"
        assert found.estimate == analysis.estimate
        assert found.interval is not None
        assert (found.interval.low, found.interval.high) == analysis.interval(0.95)
        assert found.bootstrap == arrays.bootstrap
        assert found.checkpoint is None
    assert found.p_value == pytest.approx(analysis.p_value(0.0, "greater"), rel=1e-12)


def test_a_result_reads_and_is_plain_data() -> None:
    treatment, control = pair()
    found = stats.compare({"new": treatment, "old": control}, "new", "old", resamples=500)
    text = str(found)
    assert text.startswith("new against old, score: PASS")
    for word in ("why", "passes if", "estimate", "bootstrap", "variance", "5 seeds x 120 examples"):
        assert word in text
    assert stats.GateResult.from_dict(json.loads(json.dumps(found.to_dict()))["result"])


def test_other_gate_kinds_are_asked_for_by_their_settings() -> None:
    treatment, control = pair()
    worse = stats.compare(
        {"new": control, "old": treatment}, "new", "old", kind="non_inferiority", margin=2.0
    )
    assert (worse.result.kind, worse.decision) == ("non_inferiority", "PASS")
    with pytest.raises(GateError, match="Did you mean 'min_point'"):
        stats.compare(treatment=treatment, control=control, min_pont=0.1)
    with pytest.raises(GateError, match="unknown kind 'better'"):
        stats.compare(treatment=treatment, control=control, kind="better")


def test_clusters_of_arrays_count_once() -> None:
    treatment, control = pair()
    labels = [str(i // 4) for i in range(120)]
    found = stats.compare(
        treatment=treatment, control=control, clusters=labels, resamples=500
    ).result
    assert (found.num_examples, found.num_units) == (120, 30)
    by_cluster = (treatment - control).reshape(5, 30, 4).mean(axis=2)
    assert found.standard_error == pytest.approx(stats.two_way(by_cluster).standard_error)


def test_one_seed_decides_nothing_and_shows_what_the_checkpoints_show() -> None:
    treatment, control = pair(seeds=1)
    found = stats.compare(treatment=treatment, control=control)
    assert found.decision == "INCONCLUSIVE"
    shown = found.checkpoint
    assert shown is not None
    test = scipy_stats.ttest_rel(treatment[0], control[0])
    limits = test.confidence_interval(0.95)
    assert (shown.low, shown.high) == pytest.approx((limits.low, limits.high), rel=1e-12)
    assert shown.p_value == pytest.approx(test.pvalue, rel=1e-10)
    assert "these checkpoints only" in str(found)
    assert "not a claim about the method" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["checkpoint"]["num_units"] == 120


def test_one_seed_with_unequal_clusters_is_the_ratio_estimator() -> None:
    treatment, control = pair(seeds=1, examples=60)
    labels = ["a"] * 10 + ["b"] * 2 + [f"c{i}" for i in range(48)]
    shown = stats.compare(treatment=treatment, control=control, clusters=labels).checkpoint
    difference = (treatment - control)[0]
    assert shown is not None
    assert shown.estimate == pytest.approx(difference.mean(), rel=1e-12)
    sums = pd.Series(difference - difference.mean()).groupby(labels).sum().to_numpy()
    error = np.sqrt((sums**2).sum() * 50 / 49) / 60
    half = scipy_stats.t.ppf(0.975, 49) * error
    assert (shown.num_units, shown.high - shown.low) == (50, pytest.approx(2 * half, rel=1e-10))


def test_two_identical_checkpoints_have_no_interval() -> None:
    _, control = pair(seeds=1)
    found = stats.compare(treatment=control, control=control)
    assert found.checkpoint is None
    assert found.decision in ("INCONCLUSIVE", "INVALID")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t, c: stats.compare(), "Give scores and the names"),
        (lambda t, c: stats.compare({"a": t}, t, c), "not both"),
        (lambda t, c: stats.compare({"a": t, "b": c}, "a", "nobody"), "arm 'nobody'"),
        (lambda t, c: stats.compare(treatment=t, control=c[:, :5]), "shapes must agree"),
        (lambda t, c: stats.compare(treatment=t, control=c, clusters=["x"]), "1 labels for 120"),
        (lambda t, c: stats.compare(long(t, c), "new", "old"), "No column 'arm' for arm"),
        (
            lambda t, c: stats.compare(long(t, c), "new", "old", columns={**NAMES, "run": "x"}),
            r"unknown \['run'\]",
        ),
        (
            lambda t, c: stats.compare(
                long(t, c).drop(columns="run"), "new", "old", columns={**NAMES, "seed": "seed"}
            ),
            "0 in every row where there is one checkpoint",
        ),
        (
            lambda t, c: stats.compare(
                long(t, c).assign(metric="em"), "new", "old", metric="f1", columns=NAMES
            ),
            r"metric 'f1'; known metrics: \['em'\]",
        ),
        (lambda t, c: stats.compare(treatment=t[0, 0], control=c), "got \\(1, 1\\)|got \\(\\)"),
    ],
)
def test_mistakes_are_one_clear_line(call, said) -> None:
    treatment, control = pair()
    with pytest.raises(ScoreError, match=said) as caught:
        call(treatment, control)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rng_seed": -1}, "rng_seed: got -1; expected an integer of at least 0"),
        ({"rng_seed": 1.5}, r"rng_seed: got 1\.5; expected an integer"),
        ({"resamples": "many"}, "resamples: got 'many'; expected an integer of at least 2"),
        ({"resamples": 1}, "resamples: got 1; expected an integer of at least 2"),
        ({"level": 1.5}, r"level: got 1\.5; expected a number between 0 and 1"),
        ({"level": 0}, "level: got 0; expected a number between 0 and 1"),
        ({"level": float("nan")}, "level: got nan"),
        ({"level": "95 %"}, "level: got '95 %'"),
        ({"metric": 3}, "metric: got 3; expected the name"),
        ({"kind": None}, "kind: unknown kind None; known: .*superiority"),
        ({"versus": "x"}, "versus: got 'x'; .*name the other arm with control"),
        ({"id": "mine"}, "id: got 'mine'; .*named after its arms"),
        ({"primary": False}, "primary: got False; "),
        ({"clusters": 3}, "clusters: got int 3; expected a list"),
        ({"clusters": "a" * 120}, "clusters: got str .*expected a list"),
        ({"columns": ["arm"]}, r"columns: got list \['arm'\]; expected a dict"),
    ],
)
def test_wrong_settings_are_refused_at_the_door(given, said) -> None:
    treatment, control = pair()
    with pytest.raises(StatsError, match=said) as caught:
        stats.compare(treatment=treatment, control=control, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scores", [[[1.0, 0.0]], 3, np.zeros((9, 9)), "scores.csv"])
def test_scores_of_no_known_form_are_refused(scores) -> None:
    with pytest.raises(ScoreError, match=r"scores: got .*expected a ScoreTable") as caught:
        stats.compare(scores, "new", "old")
    assert "\n" not in str(caught.value)


def test_a_hole_is_a_result_not_a_dropped_row() -> None:
    treatment, control = pair()
    frame = long(treatment, control).iloc[1:]
    found = stats.compare(frame, "new", "old", columns=NAMES)
    assert found.decision == "INVALID"
    assert "1 of 600 cells" in found.reason


def test_the_package_is_light_until_something_is_asked_for() -> None:
    script = (
        "import sys, stats; assert 'pandas' not in sys.modules; stats.compare; stats.judge;"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules;"
        "assert set(stats.__all__) <= set(dir(stats))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'comparee'"):
        _ = stats.comparee
    assert all(getattr(stats, name) is not None for name in stats.__all__)
