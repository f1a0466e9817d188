"""cluster.yaml and its variants: nothing to complain of, and the cluster profile fits on them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.cluster_file import examine_file
from fleet.driver.cluster_nodes import nodes_to_come
from fleet.plan import plan_campaign
from fleet.policies import preflight
from missions.registry import mission_files, resolve

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
RAY_UP = [ROOT / "cluster.yaml", ROOT / "examples/clusters/gcp.yaml"]
ALL = [*RAY_UP, ROOT / "examples/clusters/kuberay.yaml"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_doctor_has_nothing_to_complain_of(path: Path) -> None:
    assert [str(finding) for finding in examine_file(path)] == []


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_ray_adds_no_commands_of_its_own(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config

    document: dict[str, Any] = yaml.safe_load(path.read_text())
    prepared = prepare_config(copy.deepcopy(document))
    common = document["setup_commands"]
    expected = {
        "initialization_commands": document["initialization_commands"],
        "head_setup_commands": common + document["head_setup_commands"],
        "worker_setup_commands": common + document["worker_setup_commands"],
        "head_start_ray_commands": document["head_start_ray_commands"],
        "worker_start_ray_commands": document["worker_start_ray_commands"],
    }
    assert {name: prepared[name] for name in expected} == expected


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_the_cluster_profile_fits_on_it(path: Path) -> None:
    nodes = nodes_to_come(yaml.safe_load(path.read_text()))
    assert len(nodes) == 8
    specs = [resolve(name, profile="cluster") for name in mission_files()]
    plan = plan_campaign(specs, run_id="r", profile="cluster", code_version="code")
    assert preflight([work.job for work in plan.works], nodes) == []


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_on_demand_and_spot_workers(path: Path) -> None:
    kinds = yaml.safe_load(path.read_text())["available_node_types"]
    markets = {
        kind["labels"]["market"]: "MarketType" in str(kind["node_config"])
        or "SPOT" in str(kind["node_config"])
        for name, kind in kinds.items()
        if name != "head"
    }
    assert markets == {"on-demand": False, "spot": True}
