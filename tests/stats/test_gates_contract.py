"""What every gate kind must keep to. Runs over the registry: a new kind needs only a case."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from gate_cases import CASES, run, table_of

from stats.bootstrap import CrossedResamples
from stats.errors import GateError
from stats.gates import GateContext, evaluate_gate, gate_kinds, parse_gate
from stats.result import GateResult
from stats.scores import ScoreTable

DECISIONS = [(kind, decision) for kind, case in CASES.items() for decision in case.effects]
SCORED = [kind for kind in CASES if kind != "exact"]
ALPHA = 0.025


def result_of(kind, decision, scores=None, **changes):
    case = CASES[kind]
    gate = case.gate(**changes)
    scores = case.table(decision) if scores is None else scores
    return run(gate, scores, case.costs(case.effects[decision]))


def numbers(value):
    """All floats of a plain structure."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield value


def test_every_kind_has_a_case():
    assert sorted(CASES) == list(gate_kinds())


@pytest.mark.parametrize(("kind", "decision"), DECISIONS)
def test_each_decision_is_reached_and_says_everything(kind, decision):
    found = result_of(kind, decision)
    assert found.decision == decision, found.reason
    assert found.estimand
    assert found.criterion
    assert found.reason
    assert found.kind == kind
    assert all(math.isfinite(number) for number in numbers(found.to_dict()))
    if kind != "exact":
        assert "training seeds" in found.estimand
        assert "test items" in found.estimand
        assert found.bootstrap.low_error >= 0
        assert found.bootstrap.high_error >= 0
        assert (found.p_value < ALPHA) == (decision == "PASS")


@pytest.mark.parametrize(("kind", "decision"), DECISIONS)
def test_the_criterion_names_the_margins(kind, decision):
    criterion = result_of(kind, decision).criterion
    for text in CASES[kind].margins:
        assert text in criterion


@pytest.mark.parametrize("kind", SCORED)
def test_undecided_says_what_would_decide(kind):
    found = result_of(kind, "INCONCLUSIVE")
    assert found.mde > 0
    assert found.would_decide.text in found.reason
    assert "this size detects" in found.reason


@pytest.mark.parametrize(("kind", "decision"), DECISIONS)
def test_results_travel_as_json(kind, decision):
    found = result_of(kind, decision)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert GateResult.from_dict(json.loads(text)) == found


@pytest.mark.parametrize("kind", SCORED)
def test_the_order_of_rows_changes_no_bit(kind):
    scores = CASES[kind].table("INCONCLUSIVE")
    order = np.random.default_rng(0).permutation(len(scores))
    mixed = ScoreTable(scores.frame.iloc[order])
    assert result_of(kind, "INCONCLUSIVE", mixed) == result_of(kind, "INCONCLUSIVE", scores)


@pytest.mark.parametrize(("kind", "decision"), [d for d in DECISIONS if d[0] != "exact"])
def test_names_of_seeds_and_examples_do_not_matter(kind, decision):
    scores = CASES[kind].table(decision)
    rng = np.random.default_rng(1)
    frame = scores.frame.copy()
    seeds = dict(zip(scores.seeds, rng.permutation(100)[: len(scores.seeds)], strict=True))
    names = sorted(frame["example_id"].unique())
    ids = dict(zip(names, (f"x{n}" for n in rng.permutation(len(names))), strict=True))
    frame["seed"] = frame["seed"].map(seeds)
    frame["example_id"] = frame["example_id"].map(ids)
    frame["cluster_id"] = frame["example_id"]
    plain, other = result_of(kind, decision, scores), result_of(kind, decision, ScoreTable(frame))
    assert other.decision == plain.decision
    assert other.estimate == pytest.approx(plain.estimate, rel=1e-9, abs=1e-12)
    assert other.p_value == pytest.approx(plain.p_value, rel=1e-6, abs=1e-12)
    assert other.interval.low == pytest.approx(plain.interval.low, rel=1e-9, abs=1e-12)


MIRRORED = [d for d in DECISIONS if CASES[d[0]].mirror is not None]


@pytest.mark.parametrize(("kind", "decision"), MIRRORED)
def test_turned_signs_with_a_turned_direction_decide_alike(kind, decision):
    case = CASES[kind]
    scores = case.table(decision)
    frame = scores.frame.copy()
    if not case.swapped:
        frame["value"] = -frame["value"]
    plain = result_of(kind, decision, scores)
    other = result_of(kind, decision, ScoreTable(frame), **case.mirror)
    assert other.decision == plain.decision
    assert other.p_value == pytest.approx(plain.p_value, rel=1e-9)
    assert abs(other.estimate) == pytest.approx(abs(plain.estimate), rel=1e-9)
    assert other.mde == pytest.approx(plain.mde, rel=1e-9)
    turned = -1.0 if other.estimate * plain.estimate < 0 else 1.0
    assert [turned * effect.value for effect in other.effects] == pytest.approx(
        [effect.value for effect in plain.effects], rel=1e-9
    )


@pytest.mark.parametrize("kind", ["superiority", "time_to_event"])
def test_effect_sizes_point_where_the_estimate_points(kind):
    """Both are improvements, also where less is better."""
    settings = {"higher_is_better": False} if kind == "superiority" else {}
    for decision in ("PASS", "FAIL"):
        scores = CASES[kind].table(decision)
        found = run(CASES[kind].gate(**settings), scores)
        assert found.effects
        assert all(effect.value * found.estimate > 0 for effect in found.effects)


@pytest.mark.parametrize("kind", SCORED)
def test_a_missing_cell_is_refused_wherever_it_is(kind):
    scores = CASES[kind].table("PASS")
    blocks = scores.frame.groupby(["metric", "arm"], sort=False).head(1).index
    gate = CASES[kind].gate()
    metrics = set(getattr(gate, "metrics", ())) or {gate.metric, f"{gate.metric}_event"}
    arms = {gate.treatment, getattr(gate, "versus", "")}
    read = 0
    for at in blocks:
        row = scores.frame.loc[at]
        if row["metric"] not in metrics or row["arm"] not in arms:
            continue
        read += 1
        found = result_of(kind, "PASS", ScoreTable(scores.frame.drop(index=at)))
        assert found.decision == "INVALID"
        assert "missing" in found.reason
        assert found.estimate is None
        assert found.estimand.endswith("not estimated")
        assert found.criterion
    assert read >= 1


@pytest.mark.parametrize("kind", SCORED)
def test_one_seed_is_undecided_and_says_why(kind):
    scores = CASES[kind].table("PASS").select(seeds=[0])
    found = result_of(kind, "PASS", scores)
    assert found.decision == "INCONCLUSIVE"
    assert "at least 2 x 2" in found.reason
    assert found.estimand
    assert found.criterion


@pytest.mark.parametrize("kind", SCORED)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 7.25])
def test_constant_scores_never_pass_without_an_exact_bound(kind, value):
    case = CASES[kind]
    grids = case.grids(case.effects["PASS"], np.random.default_rng(0))
    same = {
        metric: {
            arm: np.full_like(grid, 1.0 if metric.endswith("_event") else value)
            for arm, grid in arms.items()
        }
        for metric, arms in grids.items()
    }
    found = result_of(kind, "PASS", table_of(same))
    assert found.p_value is None or found.interval is not None
    if found.interval is None:
        assert found.decision == "INVALID"
        assert found.reason
    else:
        assert found.interval.method == "exact bound, nothing varied"
        assert found.interval.low < found.interval.high


@pytest.mark.parametrize("kind", SCORED)
def test_cells_that_differ_while_all_means_agree_are_no_result(kind):
    """A checkerboard: every seed and every item has the same mean, so the variance is zero."""
    case = CASES[kind]
    grids = case.grids(case.effects["PASS"], np.random.default_rng(0))
    board = 2.0 + np.indices((4, 24)).sum(axis=0) % 2
    tilted = {
        metric: {
            arm: np.ones((4, 24)) if metric.endswith("_event") else board[::sign] + 0.5 * at
            for sign, arm in zip((1, -1), arms, strict=False)
        }
        for at, (metric, arms) in enumerate(grids.items())
    }
    found = result_of(kind, "PASS", table_of(tilted))
    if found.interval is None:
        assert found.decision == "INVALID"
        assert found.reason


@pytest.mark.parametrize("kind", ["superiority", "non_inferiority", "equivalence", "slope"])
def test_differences_of_rounding_errors_are_no_variation(kind):
    """The arms differ by 0.1 everywhere, but for the last digits of large scores."""
    case = CASES[kind]
    grids = case.grids(0.0, np.random.default_rng(0))
    factor = math.exp(0.1)
    shifted = {
        metric: {
            "c": 1000 * np.abs(arms["c"]) + 1,
            "t": (1000 * np.abs(arms["c"]) + 1) * factor
            if kind == "equivalence"
            else 1000 * np.abs(arms["c"]) + 1 + 0.1 * (1 + at),
        }
        for at, (metric, arms) in enumerate(grids.items())
    }
    found = run(case.gate(), table_of(shifted))
    assert found.decision == "INVALID"
    assert "zero variation" in found.reason


def test_unknown_settings_list_the_known_ones():
    for kind, case in CASES.items():
        with pytest.raises(GateError) as caught:
            parse_gate({**case.settings, "min_pont": 1})
        text = str(caught.value)
        assert f"Gate 'g' ({kind}): unknown field 'min_pont'" in text
        for name in type(case.gate()).model_fields:
            assert name in text.split("Known: ")[1]


@pytest.mark.parametrize("data", [None, 3, "superiority", ["kind"], {"kind": ["bound"]}, {3: 4}])
def test_what_is_no_gate_is_refused(data):
    with pytest.raises(GateError):
        parse_gate(data)


NUMERIC = [
    (kind, name)
    for kind, case in CASES.items()
    for name, value in case.settings.items()
    if isinstance(value, float)
]


@pytest.mark.parametrize(("kind", "name"), NUMERIC)
@pytest.mark.parametrize("bad", ["much", float("nan"), float("inf"), [1]])
def test_a_margin_that_is_no_number_is_refused_by_name(kind, name, bad):
    with pytest.raises(GateError, match=name):
        CASES[kind].gate(**{name: bad})


def test_level_moves_the_interval_and_the_rule():
    case = CASES["monotone"]
    context = GateContext(
        scores=case.table("PASS"),
        resampler=CrossedResamples(rng_seed=1, resamples=60),
        level=0.99,
    )
    found = evaluate_gate(case.gate(), context)
    assert "0.005" in found.criterion
    assert found.interval.level == found.bootstrap.level == 0.99
