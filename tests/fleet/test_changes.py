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
        ({"seeds": [0, 1, 2, 3]}, {"plain": 3}, None),
        ({"seeds": [0, 1]}, {}, r"seeds \[2\] are removed"),
        ({"pack": "run"}, {}, "pack lays out its runs"),
        ({"params": {"pack_s": 1.0}}, {}, None),
        ({"params": {"pack_s": 1.0}}, {"plain": 2}, "arm plain: its test scores were read 2 times"),
        ({"arms": with_arm("extra", rank=2)}, {"plain": 2}, None),
        ({"arms": with_arm("extra", rank=2)}, {"extra": 1}, "arm extra: its test scores"),
        ({"data_seed": 5}, {"plain": 1}, "arm plain"),
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
