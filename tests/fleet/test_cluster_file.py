"""cluster.yaml against Ray's own schema (there is no `ray up --dry-run`) and our rules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


def validated(document: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(document))
    validate_config(prepared)
    return prepared


def test_ray_accepts_it_and_adds_no_commands(cluster: dict[str, Any]) -> None:
    prepared = validated(cluster)
    for name in (
        "initialization_commands",
        "setup_commands",
        "head_setup_commands",
        "worker_setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    ):
        ours = cluster[name]
        assert prepared[name][-len(ours) :] == ours if ours else True
        assert not any("nightly" in str(command) for command in prepared[name])


def test_ray_would_refuse_a_misspelt_key(cluster: dict[str, Any]) -> None:
    import jsonschema

    wrong = copy.deepcopy(cluster)
    wrong["idle_timeout_minuts"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        validated(wrong)


def test_head_without_gpu_and_two_kinds_of_gpu_workers(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    head = kinds[cluster["head_node_type"]]
    assert head["resources"]["GPU"] == 0
    markets = {
        kind["labels"]["market"]: "InstanceMarketOptions" in kind["node_config"]
        for name, kind in kinds.items()
        if name != cluster["head_node_type"]
    }
    assert markets == {"on-demand": False, "spot": True}


def test_token_and_loopback(cluster: dict[str, Any]) -> None:
    starts = [
        command
        for name in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[name]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in cluster["file_mounts"]
