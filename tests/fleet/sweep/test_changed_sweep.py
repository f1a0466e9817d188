"""A run with a settled sweep under another configuration: what stays chosen, what is open again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import fake_catalog
import pytest
from sweep_without_ray import DirectLedger

import fleet.driver.resume
from fleet import cli, provenance
from fleet.driver.order_file import OrderFile, plain_specs, write_order
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import SplitTicket
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.settings import RunPaths
from fleet.sweep.settling import CANCELLED, settled_spec, settlement, with_choices
from missions.errors import LockedSplitError
from missions.spec import MissionSpec, parse_spec

SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 3,
    "seeds": [100],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"treated": {}, "plain": {}},
    "follow": {"extra": ["plain"]},
}
CHOSEN = {
    "treated": {"params.training.lr": 0.01},
    "plain": {"params.training.lr": 0.03},
}


def file_spec(**changes: Any) -> MissionSpec:
    return parse_spec({**fake_catalog.document("F1"), "sweep": SWEEP, **changes}, "fake")


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run of F1 whose sweep is settled; nothing of the test split was read."""
    found = RunPaths(root=tmp_path / "one")
    found.root.mkdir()
    spec, code = file_spec(), provenance.code_version()
    write_order(
        found,
        OrderFile(
            missions=("F1",),
            arms=(),
            profile="laptop",
            overrides=(),
            cpus=1,
            address=None,
            catalog="fake_catalog",
            command="python fleet.py launch --missions F1",
            code_version=code,
            registry=None,
            specs=plain_specs([spec]),
        ),
    )
    ledger = Ledger(found.ledger)
    ledger.record_plan(plan_campaign([spec], run_id="one", profile="laptop", code_version=code), {})
    told = settlement(with_choices(spec, CHOSEN), spec_hash=spec.digest(), code_version=code)
    choices = {arm: {"settings": settings} for arm, settings in CHOSEN.items()}
    body = {"mission": "F1", "choices": choices}
    ledger.settle_sweep("F1", told.spec_json, body, told.freeze)
    ledger.record_data("F1", "d" * 64, {}, {})
    ledger.close()
    return found


@pytest.fixture
def resume(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`resume --allow-changes` with the mission file changed; Ray is left out."""

    def work(plan: Any, settings: Any, wishes: Any, *, prepare: Any, **named: Any) -> int:
        ledger = Ledger(paths.ledger)
        prepare(DirectLedger(ledger))
        ledger.record_plan(plan, named["meta"])
        ledger.close()
        return 0

    def run(**changes: Any) -> int:
        document = file_spec(**changes).model_dump(mode="json")
        monkeypatch.setattr(fake_catalog, "document", lambda mission_id, **params: document)
        words = ["resume", "one", "--allow-changes", "--runs-dir", str(paths.root.parent)]
        return cli.run(words)

    monkeypatch.setattr(fleet.driver.resume, "work", work)
    return run


def ticket(spec: MissionSpec) -> SplitTicket:
    return SplitTicket(
        ticket="t",
        run="F1-plain-s0",
        arm_hash=spec.arm_digest("plain"),
        attempt="a",
        host="h",
        pid=1,
    )


def kinds(reader: LedgerReader) -> list[str]:
    return [link.kind for link in reader.decisions()]


def test_what_no_sweep_searches_leaves_the_choice(
    resume: Callable[..., int], paths: RunPaths
) -> None:
    kept = paths.work("F1") / "checkpoints" / "F1-s0"
    kept.mkdir(parents=True)
    assert resume(title="Another", seeds=[0, 1, 2, 3]) == 0
    after = file_spec(title="Another", seeds=[0, 1, 2, 3])
    chosen = with_choices(after, CHOSEN)
    with LedgerReader(paths.ledger) as reader:
        assert settled_spec(reader, after) == chosen
        frozen = reader.decisions()[-2]
        assert kinds(reader) == [
            "mission_file",
            "sweep",
            "freeze",
            "change",
            "freeze",
            "resume",
        ]
    with closing(sqlite3.connect(paths.ledger)) as cx:
        rows = cx.execute("SELECT arm, arm_hash FROM runs").fetchall()
    hashes = dict(rows)
    assert (len(rows), len(set(rows))) == (12, 3)
    assert hashes == frozen.body["arm_hashes"]
    assert hashes == {arm: chosen.arm_digest(arm) for arm in chosen.arms}
    assert frozen.body["spec_hash"] == after.digest()
    assert kept.is_dir()


def test_another_sweep_is_open_again_and_nothing_is_frozen_meanwhile(
    resume: Callable[..., int], paths: RunPaths
) -> None:
    for name in ("artifacts", "checkpoints", "sweep"):
        (paths.work("F1") / name).mkdir(parents=True)
    assert resume(sweep={**SWEEP, "trials": 6}) == 0
    with LedgerReader(paths.ledger) as reader:
        assert reader.swept_spec_json("F1") is None
        assert kinds(reader)[-3:] == ["change", "mission_file", "resume"]
    assert list(paths.work("F1").iterdir()) == []
    ledger = Ledger(paths.ledger)
    with pytest.raises(LockedSplitError):
        ledger.open_test(ticket(with_choices(file_spec(), CHOSEN)))
    ledger.close()


@pytest.mark.parametrize("field", ["sweep", "gates"])
def test_sweep_and_gates_are_fixed_once_a_test_score_was_read(
    resume: Callable[..., int],
    paths: RunPaths,
    capsys: pytest.CaptureFixture[str],
    field: str,
) -> None:
    ledger = Ledger(paths.ledger)
    ledger.open_test(ticket(with_choices(file_spec(), CHOSEN)))
    ledger.close()
    gates = fake_catalog.document("F1")["gates"]
    gates[0]["min_point"] = 0.05
    changed = {"sweep": {**SWEEP, "trials": 6}, "gates": gates}
    assert resume(**{field: changed[field]}) == 3
    told = capsys.readouterr().err
    assert f"mission F1: {field} differs, and test scores were read" in told
    with LedgerReader(paths.ledger) as reader:
        assert kinds(reader) == ["mission_file", "sweep", "freeze", "test_read"]
        assert reader.swept_spec_json("F1") is not None


def test_an_arm_that_the_sweep_went_on_without_is_not_taken_up_again(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be confirmed with untuned settings beside arms that were tuned."""
    ledger = Ledger(paths.ledger)
    ledger.cancel_order("F1", "extra", "cancelled by the user")
    body = {"mission": "F1", "choices": {}, "untuned": {"extra": CANCELLED}}
    ledger.decide("sweep", body)
    ledger.close()
    words = ["retry", "--cancelled", "one", "--runs-dir", str(paths.root.parent)]
    assert cli.run(words) == 2
    assert "F1:extra: cancelled before the mission's sweep was settled" in capsys.readouterr().err
