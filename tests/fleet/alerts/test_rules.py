"""Every rule fires on its own case and on no other; the calm launch is calm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.alerts import RULES, AlertConfig, Tracker
from fleet.alerts.rules import Rule
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


def test_standing_pending_firing_resolved() -> None:
    patient = Rule(
        id="DiskLow",
        severity="critical",
        title="t",
        advice="a",
        for_s=10,
        find=next(rule.find for rule in RULES if rule.id == "DiskLow"),
        promql=lambda config: "",
    )
    tracker = Tracker(CONFIG, rules=[patient])
    low = CASES["DiskLow"]
    assert tracker.look(low) == ()
    assert tracker.firing == ()
    assert tracker.look(replace(low, now=NOW + 9)) == ()
    (fired,) = tracker.look(replace(low, now=NOW + 10))
    assert (fired.standing, fired.since, fired.changed_at) == ("firing", NOW, NOW + 10)
    assert tracker.look(replace(low, now=NOW + 11)) == (), "told once, not at every look"
    assert [alert.rule for alert in tracker.firing] == ["DiskLow"]
    (over,) = tracker.look(replace(CALM, now=NOW + 12))
    assert (over.standing, tracker.firing) == ("resolved", ())
    # A rule that stops to hold before its time has never fired, and says nothing.
    tracker.look(replace(low, now=NOW + 20))
    assert tracker.look(replace(CALM, now=NOW + 21)) == ()


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
