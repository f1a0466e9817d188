from __future__ import annotations

import pytest

from stats.report import Fact
from stats.report.checklist import checklist, checklist_keys


def lines_of(run, context, tables=None):
    return {line.key: line for line in checklist(run.verdicts, context, tables or run.tables)}


def test_nothing_is_claimed_that_was_not_handed_in(run, make_context):
    lines = lines_of(run, make_context())
    assert tuple(lines) == checklist_keys()
    assert len(set(checklist_keys())) == len(checklist_keys()) == 22
    unknown = {"fixed", "tuning", "reads", "peeking", "calibration", "reproduce", "noise"}
    assert {key for key, line in lines.items() if line.status == "open"} == unknown
    assert {key for key, line in lines.items() if line.status == "part"} == {"margins"}
    assert [key for key, line in lines.items() if line.status == "yes" and not line.where] == []


def test_answers_hold_the_figures_of_the_run(run, make_context):
    lines = lines_of(run, make_context())
    assert "5 of 5 comparisons" in lines["paired"].answer
    assert "equal in all arms and seeds" in lines["paired"].answer
    assert "none with A main" in lines["margins"].answer
    assert "4 missions (A, B, C, D)" in lines["family"].answer
    assert "B = 300" in lines["method"].answer
    assert "A 3 arms x 5 seeds" in lines["runs"].answer
    assert "5 of 5 missions" in lines["published"].answer


def test_the_runner_answers_what_only_it_knows(run, make_context):
    told = {"noise": Fact(answer="2 of 2 equal", where="runs/b", status="yes"), "reads": "five"}
    badge = Fact(answer="2.4 % of 2,000", where="calibration.json", status="yes")
    lines = lines_of(run, make_context(checklist=told, calibration=badge))
    assert (lines["noise"].answer, lines["noise"].where) == ("2 of 2 equal", "runs/b")
    assert (lines["reads"].status, lines["calibration"].answer) == ("yes", "2.4 % of 2,000")
    with pytest.raises(ValueError, match="Unknown checklist lines"):
        checklist(run.verdicts, make_context(checklist={"peekng": "never"}))


def test_other_scores_than_the_judged_ones_are_told(run, make_context):
    lines = lines_of(run, make_context(), {**run.tables, "A": run.tables["B"]})
    assert lines["published"].status == "part"
    assert "not A" in lines["published"].answer
