"""From a launch's ledger to a registered model, with fake missions and without Ray."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from test_report_facts import finished

from fleet.cli import run
from fleet.driver import drive
from fleet.errors import NotFoundError, StorageError, UsageError
from fleet.ledger.reader import LedgerReader
from fleet.registry.choosing import FIRST, MEDIAN, choose_seed
from fleet.registry.promotion import Wish, note_in_ledger, promote_launch, promote_run
from fleet.registry.reader import RegistryReader
from fleet.settings import LaunchSettings, RunPaths

CATALOG = "fake_catalog"


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    paths, verdict = finished(tmp_path_factory.mktemp("runs") / "one", effect=0.8)
    assert verdict.verdict == "PROMOTE"
    return paths


def test_the_seed_is_the_median_and_never_the_best() -> None:
    chosen = choose_seed((0, 1, 2, 3, 4), "dev", {0: 0.5, 1: 0.9, 2: 0.7, 3: 0.1, 4: 0.6})
    assert (chosen.seed, chosen.rule) == (4, MEDIAN)
    assert choose_seed((3, 1), "dev", {3: 0.2, 1: 0.4}).seed == 3  # even: the lower one
    assert choose_seed((3, 1), "dev", {3: 0.2, 1: 0.2}).seed == 1  # equal: in order of seed
    assert choose_seed((3, 1), "dev", {3: None, 1: float("nan")}).rule == FIRST
    assert choose_seed((3, 1), "dev", {3: None, 9: 1.0}).seed == 3


def test_a_promote_verdict_is_registered_with_its_lineage(launch: RunPaths, tmp_path: Path) -> None:
    (outcome,), errors = promote_launch(launch, tmp_path / "registry", catalog=CATALOG)
    assert errors == []
    assert (outcome.alias, outcome.text) == ("champion", "promoted as champion")
    note_in_ledger(launch, [outcome])
    again, _ = promote_launch(launch, tmp_path / "registry", catalog=CATALOG)
    assert again == [outcome], "the same verdict is promoted once"
    note_in_ledger(launch, again)
    with LedgerReader(launch.ledger) as ledger, RegistryReader(tmp_path / "registry") as reader:
        row = reader.resolve("scratch:F1@champion")
        lineage = reader.manifest(row).lineage
        link = next(link for link in ledger.decisions() if link.kind == "verdict")
        noted = ledger.latest("promotion")
        (decision,) = reader.decisions()
    assert row.id == outcome.model
    assert lineage.verdict_link == link.hash
    assert (lineage.run_id, lineage.seeds, lineage.choice.seed) == ("one", (0, 1, 2), 1)
    assert {figure.gate for figure in lineage.figures} == {"better", "ablated"}
    assert lineage.forced is None
    assert decision.body["verdict_link"] == link.hash
    assert decision.body["actor"] == "launch one"
    assert noted is not None
    assert noted["model"] == row.id


def test_the_end_of_a_launch_promotes_or_says_why_not(
    launch: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = LaunchSettings(paths=launch, profile="laptop", command="c", cpus=1, catalog=CATALOG)
    promotions, errors = drive._promote(settings, tmp_path / "registry")
    assert errors == []
    assert promotions[0]["alias"] == "champion"
    assert "promoted as champion" in capsys.readouterr().err
    assert drive._promote(settings, None) == ([], [])
    assert "--no-promote" in capsys.readouterr().err
    weak, verdict = finished(tmp_path / "weak", effect=0.0)
    settings = dataclasses.replace(settings, paths=weak)
    promotions, errors = drive._promote(settings, tmp_path / "other")
    assert (promotions[0]["model"], errors) == (None, [])
    assert f"not promoted: verdict {verdict.verdict}" in promotions[0]["text"]
    assert not (tmp_path / "other").exists()


def test_force_needs_a_reason_and_records_it(
    launch: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Wish(missions=("F1",), arm="plain", forced="a baseline to serve", catalog=CATALOG)
    (outcome,) = promote_run(launch, tmp_path, wish)
    assert "forced over verdict PROMOTE: a baseline to serve" in outcome.text
    with RegistryReader(tmp_path) as reader:
        (row,) = reader.models()
        assert (row.arm, row.forced) == ("plain", "a baseline to serve")
        assert reader.decisions()[0].body["forced"] == "a baseline to serve"
    with pytest.raises(UsageError, match="--arm needs --force"):
        promote_run(launch, tmp_path, Wish(arm="plain", catalog=CATALOG))
    with pytest.raises(NotFoundError, match=r"no arm 'wrong'. Known: treated, plain, extra"):
        promote_run(launch, tmp_path, Wish(arm="wrong", forced="x", catalog=CATALOG))
    with pytest.raises(NotFoundError, match=r"no verdict on mission 'Z'. It has: F1"):
        promote_run(launch, tmp_path, Wish(missions=("Z",), catalog=CATALOG))


def test_what_cannot_be_served_is_said_and_not_registered(launch: RunPaths, tmp_path: Path) -> None:
    wish = Wish(missions=("F1",), arm="extra", forced="to see", catalog=CATALOG)
    (outcome,) = promote_run(launch, tmp_path, wish)
    assert outcome.model is None
    assert outcome.text.startswith("not promoted: cannot be served (Mission F1, arm 'extra'")
    assert not (tmp_path / "registry.sqlite").exists()
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_moved_launch_is_promoted_and_a_lost_artifact_is_an_error(
    launch: RunPaths, tmp_path: Path
) -> None:
    moved = RunPaths(root=tmp_path / "moved")
    shutil.copytree(launch.root, moved.root)
    hidden = launch.root.with_name("hidden")
    launch.root.rename(hidden)
    try:
        (outcome,) = promote_run(moved, tmp_path / "registry", Wish(catalog=CATALOG))
        assert outcome.alias == "champion"
        shutil.rmtree(moved.work("F1") / "artifacts")
        assert promote_launch(moved, tmp_path / "registry", catalog=CATALOG)[1] == []
        outcomes, errors = promote_launch(moved, tmp_path / "other", catalog=CATALOG)
        assert isinstance(errors[0], StorageError)
        assert "the artifact of F1-treated-s1 is gone" in outcomes[0].text
    finally:
        hidden.rename(launch.root)


def test_commands(launch: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--registry", str(tmp_path / "r")]
    assert run(["registry", "list", *folder]) == 6
    assert "nothing was promoted into it" in capsys.readouterr().err
    runs = ["--runs-dir", str(launch.root.parent)]
    promote_launch(launch, tmp_path / "r", catalog=CATALOG)
    assert run(["registry", "list", "--json", *folder]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model["aliases"] == ["champion"]
    assert run(["registry", "show", "F1", *folder]) == 0
    assert model["id"] in capsys.readouterr().out
    assert run(["registry", "verify", *folder]) == 0
    assert "1 models, 1 files" in capsys.readouterr().out
    assert run(["registry", "export", "F1", str(tmp_path / "out"), *folder]) == 0
    assert (
        run(["registry", "import", str(tmp_path / "out"), "--registry", str(tmp_path / "s")]) == 0
    )
    assert run(["promote", model["id"], "--registry", str(tmp_path / "s")]) == 0
    capsys.readouterr()
    assert run(["rollback", "F1", *folder]) == 2
    assert run(["rollback", "F1", "--reason", "slow", *folder]) == 6
    assert "scratch:F1 has no previous model" in capsys.readouterr().err
    assert run(["promote", "one", "--force", *runs, *folder]) == 2
    assert run(["promote", "one", "--as", "king", *runs, *folder]) == 2
    weights = next((tmp_path / "r" / "models").glob("*/model/adapter.json"))
    weights.write_text("{}")
    assert run(["registry", "verify", *folder]) == 5
    assert "NOT ok" in capsys.readouterr().out
