"""One trial, without Ray: what is trained, on what, under which key; the ledger's rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_catalog import FakeMission, document

from fleet.errors import FleetError, KeyConflictError, StorageError, SweepError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.writer import Ledger
from fleet.plan import plan_campaign
from fleet.redaction import Redactor
from fleet.sweep.records import Trial
from fleet.sweep.trial import Bench, trial_key
from missions.spec import MissionSpec, parse_spec

SWEEP: dict[str, Any] = {
    "metric": "em",
    "trials": 3,
    "seeds": [100, 101],
    "space": {"params.training.lr": {"kind": "loguniform", "low": 0.0005, "high": 0.5}},
    "arms": {"treated": {}, "plain": {}},
    "rungs": [{"params.training.steps": 2}, {"params.training.steps": 8}],
}


def make_spec(sweep: dict[str, Any] | None = None, **params: Any) -> MissionSpec:
    return parse_spec({**document("F1", **params), "sweep": {**SWEEP, **(sweep or {})}}, "test")


def trial(rate: float = 0.02, rung: int = 0, number: int = 1) -> Trial:
    settings = {"params.training.lr": rate}
    return Trial(arm="plain", number=number, rung=rung, settings=settings)


def bench(spec: MissionSpec, folder: Path) -> Bench:
    return Bench(spec, FakeMission("F1"), folder, code_version="code", device=torch.device("cpu"))


def test_a_trial_is_trained_at_its_rung_and_scored_on_dev(tmp_path: Path) -> None:
    at = bench(make_spec(), tmp_path)
    row = at.run(trial(rung=0))
    assert row.error == ""
    assert row.seed_scores == {100: pytest.approx(0.2), 101: pytest.approx(0.2)}
    assert at.run(trial(rung=1)).score == pytest.approx(0.8)
    assert at.run(trial(rate=0.2, rung=1)).score == pytest.approx(-0.2)
    assert row.cost["trainable_params"] == 1000
    assert not list((tmp_path / "trials").iterdir())


def test_a_trial_that_reaches_for_the_test_split_fails(tmp_path: Path) -> None:
    row = bench(make_spec(reads_test=True), tmp_path).run(trial())
    assert row.score is None
    assert row.error.startswith("LockedSplitError: Mission F1, arm 'plain': the test split is lock")
    assert "open_test" in row.traceback


def test_an_error_and_a_missing_metric_are_failed_trials(tmp_path: Path) -> None:
    row = bench(make_spec({"metric": "f1"}), tmp_path).run(trial())
    assert row.error == "ValueError: no scores of metric 'f1' on dev. Known: em."
    row = bench(make_spec(fail="train", fail_seed=100), tmp_path / "b").run(trial())
    assert "told to fail at seed 100" in row.error


@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        ("disk", StorageError, r"No space left on device"),
        ("memory", SweepError, r"trial 2 of arm plain: OutOfMemoryError: .* \(resident \d+ MiB"),
    ],
)
def test_a_full_disk_and_too_little_memory_are_no_trial(
    tmp_path: Path, trouble: str, kind: type[FleetError], said: str
) -> None:
    """They say nothing of the settings: no row may keep them from being tried again."""
    at = bench(make_spec(trouble=trouble), tmp_path)
    with pytest.raises(kind, match=said):
        at.run(trial())
    (tmp_path / "mended").touch()
    assert at.run(trial()).error == ""


def test_secrets_stay_out_of_a_failed_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    row = dataclasses.replace(
        bench(spec, tmp_path / "work").run(trial()),
        seed_scores={},
        error="no entry for hunter2-hunter2",
        traceback="login(password='hunter2-hunter2')",
    )
    monkeypatch.setattr(
        "fleet.ledger.sweeps.redactor", lambda: Redactor({"PASSWORD": "hunter2-hunter2"})
    )
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.record_plan(plan_campaign([spec], run_id="r", profile="laptop", code_version="code"), {})
    ledger.record_trial(row)
    found = ledger.find_trial(row.key)
    ledger.close()
    assert found is not None
    assert found.error == "no entry for [redacted PASSWORD]"
    assert found.traceback == "login(password='[redacted PASSWORD]')"


def test_keys_tell_everything_apart_that_decides_a_score() -> None:
    spec = make_spec()
    keys = {
        trial_key(spec, trial(), "code"),
        trial_key(spec, trial(), "other code"),
        trial_key(spec, trial(rate=0.03), "code"),
        trial_key(spec, trial(rung=1), "code"),
        trial_key(spec, Trial(arm="treated", number=1, rung=0, settings={}), "code"),
        trial_key(make_spec({"seeds": [100]}), trial(), "code"),
        trial_key(make_spec({"metric": "f1"}), trial(), "code"),
        trial_key(make_spec(effect=0.5), trial(), "code"),
        trial_key(
            parse_spec({**spec.model_dump(mode="json"), "data_seed": 7}, "t"), trial(), "code"
        ),
    }
    assert len(keys) == 9
    # A longer search, other trials at once, another number: the same score, the same row.
    longer = make_spec({"trials": 30, "concurrency": 4})
    assert trial_key(longer, trial(number=5), "code") == trial_key(spec, trial(), "code")


def test_a_row_is_kept_once_and_a_different_score_is_an_alarm(tmp_path: Path) -> None:
    spec = make_spec()
    row = bench(spec, tmp_path / "work").run(trial())
    plan = plan_campaign([spec], run_id="r", profile="laptop", code_version="code")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.record_plan(plan, {})
    assert ledger.find_trial(row.key) is None
    ledger.record_trial(row)
    ledger.record_trial(row)
    assert ledger.find_trial(row.key) == row
    with pytest.raises(KeyConflictError, match="trial 1 of arm plain"):
        ledger.record_trial(dataclasses.replace(row, seed_scores={100: 1.0, 101: 1.0}))
    ledger.close()
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        assert reader.trials("F1") == [row]


def test_the_arms_are_frozen_when_the_sweep_is_settled_and_not_before(tmp_path: Path) -> None:
    from fleet.sweep.settling import settled_spec, settlement
    from missions.settings import with_settings

    spec = make_spec()
    plan = plan_campaign([spec], run_id="r", profile="laptop", code_version="code")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.record_plan(plan, {})
    with LedgerReader(tmp_path / "ledger.sqlite") as reader:
        assert [link.kind for link in reader.decisions()] == ["mission_file"]
        assert settled_spec(reader, spec) is None
        chosen = with_settings(spec, "plain", {"params.training.lr": 0.02})
        body = {"mission": "F1", "choices": {}}
        arguments = settlement(chosen, spec_hash=spec.digest(), code_version="code")
        ledger.settle_sweep("F1", arguments.spec_json, body, arguments.freeze)
        ledger.settle_sweep("F1", arguments.spec_json, body, arguments.freeze)
        assert [link.kind for link in reader.decisions()] == ["mission_file", "sweep", "freeze"]
        frozen = reader.decisions()[-1].body
        assert frozen["arm_hashes"] == {arm: chosen.arm_digest(arm) for arm in spec.arms}
        assert frozen["arm_hashes"]["plain"] != spec.arm_digest("plain")
        assert settled_spec(reader, spec) == chosen
        assert reader.spec_json("F1") == json.dumps(spec.model_dump(mode="json"))
        other = with_settings(spec, "plain", {"params.training.lr": 0.03})
        arguments = settlement(other, spec_hash=spec.digest(), code_version="code")
        with pytest.raises(KeyConflictError, match="settled otherwise before"):
            ledger.settle_sweep("F1", arguments.spec_json, body, arguments.freeze)
    ledger.close()
