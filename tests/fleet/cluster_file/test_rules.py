"""Each rule refuses what it is for, in one line: file, field, value and what is allowed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.cli import run
from fleet.cluster_file import examine_file
from fleet.errors import ConfigError, NotFoundError

ROOT = Path(__file__).resolve().parents[3]
AWS = yaml.safe_load((ROOT / "cluster.yaml").read_text())
GCP = yaml.safe_load((ROOT / "examples/clusters/gcp.yaml").read_text())
KUBERAY = yaml.safe_load((ROOT / "examples/clusters/kuberay.yaml").read_text())
Change = Callable[[Any], object]
HEAD = "head_start_ray_commands"


def put(*path: Any, value: Any) -> Change:
    def change(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        document[path[-1]] = value

    return change


def drop(*path: Any) -> Change:
    def change(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        del document[path[-1]]

    return change


def edit(*path: Any, old: str, new: str) -> Change:
    def change(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        assert old in document[path[-1]]
        document[path[-1]] = document[path[-1]].replace(old, new)

    return change


def world(start: int, end: int) -> list[dict[str, Any]]:
    ranges = [{"CidrIp": "0.0.0.0/0"}]
    return [{"IpProtocol": "tcp", "FromPort": start, "ToPort": end, "IpRanges": ranges}]


TYPES = "available_node_types"
GROUPS = ("provider", "security_group")
RAY_UP_CASES: list[tuple[str, Any, Change, str, str]] = [
    ("key", AWS, put("idle_timeout_minuts", value=5), "(document)", "idle_timeout_minuts"),
    (
        "node_config",
        AWS,
        put(TYPES, "gpu_spot", "node_config", "InstanceTyp", value="x"),
        f"{TYPES}.gpu_spot.node_config.InstanceTyp",
        "allowed: InstanceType",
    ),
    (
        "deep",
        AWS,
        put(TYPES, "head", "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumSize", value=1),
        "BlockDeviceMappings[0].Ebs.VolumSize",
        "VolumeSize",
    ),
    (
        "gcp",
        GCP,
        put(TYPES, "gpu_spot", "node_config", "scheduling", "provisionModel", value="SPOT"),
        "node_config.scheduling.provisionModel",
        "provisioningModel",
    ),
    ("machine", GCP, drop(TYPES, "head", "node_config", "machineType"), "machineType", "missing"),
    (
        "ports",
        AWS,
        put(*GROUPS, "IpPermissions", value=world(0, 65535)),
        "IpPermissions[0]",
        "0-65535",
    ),
    ("dashboard", AWS, edit(HEAD, 1, old="127.0.0.1", new="0.0.0.0"), f"{HEAD}[1]", "0.0.0.0"),
    (
        "default",
        AWS,
        edit(HEAD, 1, old="--dashboard-host=127.0.0.1", new=""),
        f"{HEAD}[1]",
        "dashboard",
    ),
    (
        "scaler",
        AWS,
        edit(HEAD, 1, old="--autoscaling-config", new="--x"),
        f"{HEAD}[1]",
        "autoscaler",
    ),
    (
        "auth off",
        AWS,
        edit(HEAD, 1, old="RAY_AUTH_MODE=token", new="RAY_AUTH_MODE=disabled"),
        f"{HEAD}[1]",
        "no token authentication",
    ),
    ("no mount", AWS, drop("file_mounts", "~/.ray/auth_token"), "file_mounts", "no token"),
    (
        "secret",
        AWS,
        put("docker", "run_options", 1, value="--env RAY_AUTH_TOKEN=s3cr3t"),
        "docker.run_options[1]",
        "a token in the file",
    ),
    (
        "publish",
        AWS,
        put("docker", "run_options", 0, value="-p 8265:8265"),
        "docker.run_options[0]",
        "publishes 8265:8265",
    ),
    ("setup", AWS, drop("worker_setup_commands"), "worker_setup_commands", "nightly"),
    (
        "nightly",
        AWS,
        put("setup_commands", 1, value="pip install ray-nightly"),
        "setup_commands[1]",
        "released versions",
    ),
    (
        "ray-ml",
        AWS,
        put("docker", "worker_image", value="rayproject/ray-ml:2.60.0-py311-gpu"),
        "docker.worker_image",
        "no longer built",
    ),
    (
        "latest",
        AWS,
        put("docker", "head_image", value="rayproject/ray:latest"),
        "head_image",
        "fixed",
    ),
    (
        "other ray",
        AWS,
        put("docker", "head_image", value="rayproject/ray:2.9.0-py311"),
        "docker.head_image",
        "another version",
    ),
    (
        "no cuda",
        AWS,
        put("docker", "worker_image", value="rayproject/ray:2.60.0-py311-cpu"),
        "docker.worker_image",
        "no CUDA",
    ),
    ("head gpu", AWS, put(TYPES, "head", "resources", "GPU", value=1), "head.resources.GPU", "0"),
    (
        "storage",
        AWS,
        put("docker", "run_options", 2, value="--env BEM_FLEET_STORAGE=s3:/my-bucket"),
        "docker.head_run_options",
        "s3://bucket/folder",
    ),
    (
        "label",
        AWS,
        put(TYPES, "gpu_spot", "labels", "market", value="a b"),
        "labels.market",
        "letters",
    ),
    ("head kind", AWS, put("head_node_type", value="heed"), "head_node_type", "heed"),
]


@pytest.mark.parametrize(
    ("document", "change", "field", "said"),
    [case[1:] for case in RAY_UP_CASES],
    ids=[case[0] for case in RAY_UP_CASES],
)
def test_ray_up(document: Any, change: Change, field: str, said: str, tmp_path: Path) -> None:
    _refused(document, change, field, said, tmp_path)


WORKER = ("spec", "workerGroupSpecs", 0)
CONTAINER = (*WORKER, "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        (drop("spec", "authOptions"), "spec.authOptions.mode", "token"),
        (
            put("spec", "headGroupSpec", "serviceType", value="LoadBalancer"),
            "serviceType",
            "ClusterIP",
        ),
        (
            drop("spec", "headGroupSpec", "rayStartParams", "dashboard-host"),
            "rayStartParams.dashboard-host",
            "127.0.0.1",
        ),
        (put("spec", "rayVersion", value="2.9.0"), "spec.rayVersion", "2.60.0"),
        (put(*WORKER, "minReplica", value=1), "workerGroupSpecs[0].minReplica", "minReplicas"),
        (put(*CONTAINER, "imge", value="x"), "containers[0].imge", "image"),
        (put(*CONTAINER, "image", value="org/bem-fleet"), "containers[0].image", "fixed tag"),
        (put(*WORKER, "replicas", value=9), "workerGroupSpecs[0].replicas", "does not hold"),
        (
            put(*CONTAINER, "env", 0, value={"name": "RAY_AUTH_TOKEN", "value": "s3cr3t"}),
            "containers[0].env",
            "secretKeyRef",
        ),
    ],
)
def test_kuberay(change: Change, field: str, said: str, tmp_path: Path) -> None:
    _refused(KUBERAY, change, field, said, tmp_path)


def _refused(document: Any, change: Change, field: str, said: str, folder: Path) -> None:
    wrong = copy.deepcopy(document)
    change(wrong)
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(wrong))
    lines = [str(finding) for finding in examine_file(path)]
    assert lines, "nothing was found"
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in lines)
    assert any(field in line and said in line and "; allowed: " in line for line in lines), lines
    assert not any("s3cr3t" in line for line in lines)


def test_ssh_open_to_the_world_is_a_warning(tmp_path: Path) -> None:
    wrong = copy.deepcopy(AWS)
    put(*GROUPS, "IpPermissions", value=world(22, 22))(wrong)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(wrong))
    assert [(f.level, f.value) for f in examine_file(path)] == [
        ("warning", "ports 22-22 open to the world")
    ]


def test_what_is_no_cluster_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(NotFoundError):
        examine_file(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        examine_file(path)
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="expected a mapping, got list"):
        examine_file(path)


def test_the_command_ends_with_3_and_speaks_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--cluster", str(ROOT / "cluster.yaml")]) == 0
    assert "nothing to complain of" in capsys.readouterr().out
    wrong = copy.deepcopy(AWS)
    put("docker", "head_image", value="rayproject/ray:latest")(wrong)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(wrong))
    assert run(["doctor", "--cluster", str(path), "--json"]) == 3
    (found,) = json.loads(capsys.readouterr().out)
    assert found["field"] == "docker.head_image"
