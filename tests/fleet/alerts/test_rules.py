"""Every rule fires on its own case and on no other; the calm launch is calm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.alerts import RULES, AlertConfig, Tracker
from tests.fleet.alerts.cases import CALM, CASES, MISSION, NOW

CONFIG = AlertConfig()


def test_every_rule_has_a_case() -> None:
    assert {rule.id for rule in RULES} == set(CASES)
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("case", CASES)
def test_a_case_fires_its_rule_alone(case: str) -> None:
    fired = {rule.id for rule in RULES if list(rule.find(CASES[case], CONFIG))}
    assert fired == {case}


def test_calm() -> None:
    assert not [finding for rule in RULES for finding in rule.find(CALM, CONFIG)]


def test_what_is_over_or_waiting_is_not_missed() -> None:
    old = replace(MISSION, moved_at=0.0)
    for mission in (replace(old, phase="waiting"), replace(old, phase="judged")):
        seen = replace(CALM, missions=(mission,))
        assert not [finding for rule in RULES for finding in rule.find(seen, CONFIG)]
    assert not [
        finding
        for rule in RULES
        for finding in rule.find(replace(CALM, alive=False, over=True), CONFIG)
    ]


def test_told_once_when_it_begins_and_once_when_it_is_over() -> None:
    tracker = Tracker(CONFIG)
    low = CASES["DiskLow"]
    (fired,) = tracker.look(low)
    assert (fired.standing, fired.since, fired.changed_at) == ("firing", NOW, NOW)
    assert tracker.look(replace(low, now=NOW + 1, disk_free_mib=1.0)) == ()
    assert [(alert.rule, alert.text[:5]) for alert in tracker.firing] == [("DiskLow", "1 MiB")]
    (over,) = tracker.look(replace(CALM, now=NOW + 2))
    assert (over.standing, over.changed_at, tracker.firing) == ("resolved", NOW + 2, ())


def test_the_gravest_first() -> None:
    tracker = Tracker(CONFIG)
    tracker.look(replace(CASES["Preempted"], disk_free_mib=1.0))
    assert [alert.severity for alert in tracker.firing] == ["critical", "info"]


def test_runs_of_one_mission_are_one_alert() -> None:
    (signal,) = CASES["Rollback"].signals
    second = replace(signal, run="B-a-s1", points=((50, 1.0), (100, 1.0)))
    seen = replace(CASES["Rollback"], signals=(signal, second))
    rule = next(rule for rule in RULES if rule.id == "Rollback")
    (finding,) = rule.find(seen, CONFIG)
    assert finding.subject == "B"
    assert finding.text == "B-a-s1 rolled back 2 times, and one more run likewise"
