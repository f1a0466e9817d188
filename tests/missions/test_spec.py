"""The mission file: profiles, overrides and errors that name file, field, value, allowed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from missions.errors import SpecError
from missions.spec import load_spec

DOCUMENT: dict[str, Any] = {
    "id": "T",
    "title": "Test mission",
    "hypothesis": "h",
    "claim": "c",
    "estimand": "e",
    "seeds": [0, 1],
    "examples": {"train": 4, "dev": 4, "test": 4},
    "arms": {
        "new": {"role": "treatment", "adapter": "generated"},
        "old": {"role": "control", "adapter": "lora"},
    },
    "params": {"steps": 3},
    "gates": [
        {
            "id": "main",
            "kind": "superiority",
            "metric": "em",
            "treatment": "new",
            "versus": "old",
            "primary": True,
        }
    ],
    "parity": {"pairs": [["new", "old"]]},
}


def _write(folder: Path, document: object, name: str = "mission.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def test_profile_patch_merges_mappings_and_replaces_lists(tmp_path: Path) -> None:
    path = _write(tmp_path, DOCUMENT)
    _write(tmp_path, {"seeds": [7], "examples": {"test": 2}}, "smoke.yaml")
    spec = load_spec(path, profile="smoke")
    assert spec.seeds == (7,)
    assert (spec.examples.train, spec.examples.test) == (4, 2)


def test_override_wins_and_changes_the_digest(tmp_path: Path) -> None:
    path = _write(tmp_path, DOCUMENT)
    plain, patched = load_spec(path), load_spec(path, overrides=["params.steps=9", "seeds=[3]"])
    assert patched.params == {"steps": 9}
    assert patched.seeds == (3,)
    assert plain.digest() != patched.digest()
    assert plain.digest() == load_spec(path).digest()


def test_sequential_rules_change_the_digest_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path, {**DOCUMENT, "seeds": [0, 1, 2]})
    plain = load_spec(path)
    assert (plain.looks, plain.futility) == (None, None)
    document = plain.model_dump(mode="json")
    del document["looks"], document["futility"], document["sweep"]
    for arm in document["arms"].values():
        del arm["override"]
    for field in ("custom", "labels", "strategy"):
        del document["resources"][field]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert plain.digest() == hashlib.sha256(text.encode()).hexdigest()
    looked = load_spec(path, overrides=["looks.at_seeds=[2,3]"])
    stopped = load_spec(path, overrides=["futility.conditional_power_min=0.1"])
    assert len({plain.digest(), looked.digest(), stopped.digest()}) == 3
    assert stopped.futility is not None
    assert stopped.futility.from_seeds == 3


def test_arm_digest_depends_on_its_arm_and_the_params_only(tmp_path: Path) -> None:
    path = _write(tmp_path, DOCUMENT)
    plain = load_spec(path)
    other_arm = load_spec(path, overrides=["arms.old.note=x"])
    assert plain.arm_digest("new") == other_arm.arm_digest("new")
    assert plain.arm_digest("old") != other_arm.arm_digest("old")
    assert plain.arm_digest("new") != load_spec(path, overrides=["params.steps=1"]).arm_digest(
        "new"
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sedes=[1]"], "Did you mean 'seeds'?"),
        (["examples.tests=3"], "Did you mean 'test'?"),
        (["arms.new.roles=x"], "Did you mean 'role'?"),
        (["seeds=[-1]"], "seeds must be >= 0, got [-1]"),
        (["seeds=[1,1]"], "seeds must differ"),
        (["examples.test=none"], "examples.test"),
        (["noequals"], "expected a.b=value"),
        (["parity.pairs=[[new, gone]]"], "known arms: ['new', 'old']"),
        (["arms.new.role=boss"], "'treatment'"),
        (["looks.at_seed=[2]"], "Did you mean 'at_seeds'?"),
        (["looks.at_seeds=[2, 3]"], "2 seeds are planned"),
        (["looks.at_seeds=[1, 2]"], "must increase from 2"),
        (["futility.conditional_power=0.1"], "Did you mean 'conditional_power_min'?"),
        (["futility.conditional_power_min=0.9"], "conditional_power_min"),
    ],
)
def test_errors_are_one_helpful_line(tmp_path: Path, overrides: list[str], expected: str) -> None:
    path = _write(tmp_path, DOCUMENT)
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides=overrides)
    text = str(caught.value)
    assert expected in text
    assert "\n" not in text


def test_misspelt_gate_key_names_the_known_ones(tmp_path: Path) -> None:
    gate = {**DOCUMENT["gates"][0], "min_pint": 0.1}
    path = _write(tmp_path, {**DOCUMENT, "gates": [gate]})
    with pytest.raises(SpecError, match="Did you mean 'min_point'"):
        load_spec(path)


@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b\n", "\xff"])
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mission.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SpecError, match=r"mission\.yaml"):
        load_spec(path)


def test_unknown_profile_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="laptop, smoke, cluster"):
        load_spec(_write(tmp_path, DOCUMENT), profile="lapdog")
