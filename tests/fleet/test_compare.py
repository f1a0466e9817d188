"""Two campaigns side by side: from real ledgers, and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_report_facts import finished

from fleet.cli import run
from fleet.ledger.reader import LedgerReader
from fleet.reporting.compare import compare, side_of
from fleet.settings import RunPaths


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, effect in (("one", 0.8), ("again", 0.8), ("weak", 0.0)):
        finished(folder / name, effect=effect)
    return folder


def sides(runs: Path, *names: str) -> list[object]:
    found = []
    for name in names:
        with LedgerReader(RunPaths(root=runs / name).ledger) as reader:
            found.append(side_of(reader))
    return found


def test_the_same_campaign_twice_is_equal(runs: Path) -> None:
    found = compare(*sides(runs, "one", "again"))
    assert found.same_code
    (mission,) = found.missions
    assert mission.same_file
    assert mission.same_data
    assert mission.same_scores
    assert {gate.change for gate in mission.gates} == {0.0}
    assert found.text == (
        "1 missions with a verdict in both, the same verdicts, scores of 1 equal to the bit"
    )


def test_a_lost_effect_is_seen_gate_by_gate(runs: Path) -> None:
    found = compare(*sides(runs, "one", "weak"))
    (mission,) = found.missions
    assert mission.verdicts[0] == "PROMOTE"
    assert mission.verdicts[1] != "PROMOTE"
    assert not mission.same_file
    assert not mission.same_scores
    better = next(gate for gate in mission.gates if gate.gate == "better")
    assert better.primary
    assert better.apart
    before, after = better.estimates
    assert before is not None
    assert after is not None
    assert better.change == pytest.approx(after - before)
    assert better.change < 0


def test_the_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs-dir", str(runs)]
    assert run(["compare", "one", "weak", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == ["one", "weak"]
    assert run(["compare", "one", "weak", *where]) == 0
    assert "PROMOTE ->" in capsys.readouterr().out
    assert run(["compare", "one", "none", *where]) == 6
