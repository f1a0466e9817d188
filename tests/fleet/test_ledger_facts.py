"""What a ledger proves of the checklist, and the noise floor between two launches. No Ray."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from test_report_facts import finished

from fleet.judging.noise_floor import noise_floor
from fleet.ledger.reader import LedgerReader
from fleet.reporting.ledger_facts import ledger_facts
from fleet.settings import RunPaths
from stats.report import Fact
from stats.scores import ScoreTable


def facts_of(paths: RunPaths) -> dict[str, Fact]:
    with LedgerReader(paths.ledger) as reader:
        return ledger_facts(reader, reader.meta(), paths)


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> list[RunPaths]:
    """The same mission launched twice under the same code."""
    root = tmp_path_factory.mktemp("runs")
    return [finished(root / name)[0] for name in ("one", "two")]


def test_facts_name_their_links(launches: list[RunPaths]) -> None:
    facts = facts_of(launches[0])
    with LedgerReader(launches[0].ledger) as reader:
        freeze = next(link for link in reader.decisions() if link.kind == "freeze")
        verdict = next(link for link in reader.decisions() if link.kind == "verdict")
    assert facts["fixed"].status == "yes"
    assert f"1 (F1 {freeze.hash[:8]})" in facts["fixed"].where
    assert f"{verdict.seq} (F1 {verdict.hash[:8]})" in facts["peeking"].where
    assert facts["peeking"].status == "yes"
    assert "9 of 9 planned runs are done" in facts["runs"].answer
    assert facts["tuning"].status == "part"
    assert "decision 2 is the first read of test scores" in facts["tuning"].where


def test_a_run_without_a_second_execution_has_no_noise_floor(tmp_path: Path) -> None:
    paths, _ = finished(tmp_path / "alone")
    assert noise_floor(paths) is None
    facts = facts_of(paths)
    assert (facts["noise"].status, facts["reproduce"].status) == ("open", "part")


def test_two_executions_of_the_same_runs_are_compared(launches: list[RunPaths]) -> None:
    found = noise_floor(launches[0])
    assert found is not None
    assert (found.other, found.compared, found.equal) == ("two", 9, 9)
    facts = facts_of(launches[0])
    assert "scores of 9 equal to the bit" in facts["noise"].answer
    # Without the decision that closes a campaign there is no verdict table to compare.
    assert facts["reproduce"].status == "part"


def test_noise_is_measured_where_scores_differ(tmp_path: Path) -> None:
    one, two = (finished(tmp_path / name)[0] for name in ("one", "two"))
    with LedgerReader(two.ledger) as reader:
        row = reader.results()[0]
    file = two.scores / row.scores_file
    frame = ScoreTable.from_parquet(file).frame
    metric = frame["metric"].iloc[0]
    shifted = frame.assign(value=frame["value"].where(frame["metric"] != metric, 1.0))
    ScoreTable(shifted).to_parquet(file)
    with sqlite3.connect(two.ledger) as cx:
        cx.execute("UPDATE results SET scores_digest = 'other' WHERE run = ?", (row.run,))
    cx.close()
    found = noise_floor(one)
    assert found is not None
    assert (found.compared, found.equal) == (9, 8)
    before = frame.loc[frame["metric"] == metric, "value"].mean()
    assert found.worst == pytest.approx(1.0 - before)
    assert found.worst_where == f"{row.run}, {metric}"
