"""What may change under a run that exists, and how a difference is told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_catalog import document

from fleet.driver.changes import compare, obstacles
from missions.spec import MissionSpec, parse_spec


def spec(**changes: Any) -> MissionSpec:
    return parse_spec({**document("F1"), **changes}, "fake")


def with_arm(arm: str, **params: Any) -> dict[str, Any]:
    arms = document("F1")["arms"]
    return {**arms, arm: {**arms[arm], "params": params}}


def change(**changes: Any) -> Any:
    (found,) = compare({"F1": spec()}, {"F1": spec(**changes)})
    return found


def test_nothing_changed() -> None:
    assert compare({"F1": spec()}, {"F1": spec()}) == ()


def test_the_difference_names_path_and_values() -> None:
    gates = document("F1")["gates"]
    gates[1]["required"] = True
    found = change(title="Another", gates=gates, params={"pack_s": 3.0})
    assert set(found.differences) == {
        "title: Fake F1 -> Another",
        "gates.ablated.required: False -> True",
        "params.pack_s: (none) -> 3.0",
    }


@pytest.mark.parametrize(
    ("changes", "reads", "text"),
    [
        ({"title": "x"}, {"plain": 3}, None),
        ({"seeds": [0, 1, 2, 3]}, {"plain": 0}, None),
        ({"seeds": [0, 1, 2, 3]}, {"plain": 3}, "seeds differs, and test scores were read 3 times"),
        ({"seeds": [0, 1]}, {}, r"seeds \[2\] are removed"),
        ({"pack": "run"}, {}, "pack lays out its runs"),
        ({"params": {"pack_s": 1.0}}, {}, None),
        ({"params": {"pack_s": 1.0}}, {"plain": 2}, "arm plain: its test scores were read 2 times"),
        ({"arms": with_arm("extra", rank=2)}, {"plain": 2}, None),
        ({"arms": with_arm("extra", rank=2)}, {"extra": 1}, "arm extra: its test scores"),
        ({"data_seed": 5}, {"plain": 1}, "arm plain"),
        ({"resources": {"workers": 2, "memory_mib": 512}}, {"plain": 3}, None),
    ],
)
def test_what_a_run_can_take_up(
    changes: dict[str, Any], reads: dict[str, int], text: str | None
) -> None:
    against = obstacles(change(**changes), test_reads=reads, judged=False)
    if text is None:
        assert against == ()
    else:
        assert len(against) == 1
        assert re.search(text, against[0])


def test_a_verdict_fixes_everything() -> None:
    assert "has its verdict" in obstacles(change(title="x"), test_reads={}, judged=True)[0]


SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 4,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"treated": {}, "plain": {}},
    "untuned": {"extra": "it has nothing to tune"},
}


def swept_change(**changes: Any) -> Any:
    before, after = spec(sweep=SWEEP), spec(**{"sweep": SWEEP, **changes})
    (found,) = compare({"F1": before}, {"F1": after})
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sweep", {**SWEEP, "trials": 8}),
        ("sweep", None),
        ("arms", with_arm("extra", rank=2)),
        ("gates", [{**gate, "min_point": 0.01} for gate in document("F1")["gates"]]),
        ("parity", {**document("F1")["parity"], "tolerance": 0.3}),
        ("looks", {"at_seeds": [2, 3]}),
        ("withhold_verdict", "it went badly"),
        ("hypothesis", "another"),
        ("claim", "another"),
        ("estimand", "another"),
        ("depends_on", ["F2"]),
        ("resources", {"workers": 2, "strategy": "ddp"}),
    ],
)
def test_what_decides_is_fixed_once_any_test_score_was_read(field: str, value: Any) -> None:
    found = swept_change(**{field: value})
    assert obstacles(found, test_reads={"plain": 0}, judged=False) == ()
    (against,) = obstacles(found, test_reads={"plain": 1}, judged=False)
    assert re.match(rf"mission F1: {field}(\.strategy)? differs", against)
    assert "test scores were read" in against


def test_a_sweep_is_open_again_only_where_what_it_searched_differs() -> None:
    assert not swept_change(title="x").reopens_sweep
    assert not swept_change(seeds=[0, 1, 2, 3]).reopens_sweep
    assert swept_change(sweep={**SWEEP, "trials": 8}).reopens_sweep
    assert swept_change(arms=with_arm("extra", rank=2)).reopens_sweep
    assert swept_change(params={"effect": 0.3}).reopens_sweep
    assert swept_change(data_seed=5).reopens_sweep
