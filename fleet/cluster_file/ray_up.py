"""Rules for a file of `ray up`: Ray's schema, the cloud's fields, and what must not be open."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.cluster_file.fields import find_unknown, known_fields
from fleet.cluster_file.finding import Findings
from fleet.cluster_file.images import check_image

CLOUDS = ("aws", "gcp")
"""Clouds whose node_config is checked field by field."""
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
WORLD = ("0.0.0.0/0", "::/0")
SSH = 22
_PUBLISH = re.compile(r"(?:^|\s)(?:-p|--publish)[=\s]*([0-9.:\[\]]*\d+:\d+)")
_TOKEN_VALUE = re.compile(r"RAY_AUTH_TOKEN=[\"']?(?![$\"'\s])\S+")
_LABEL = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")


def check_ray_up(document: Mapping[str, Any], findings: Findings) -> None:
    """Notes everything that is wrong."""
    _schema(document, findings)
    kinds = document.get("available_node_types")
    head = document.get("head_node_type")
    if not isinstance(kinds, Mapping):
        findings.add("available_node_types", kinds, "one entry per kind of node")
        return
    if head not in kinds:
        findings.add("head_node_type", head, ", ".join(kinds))
        return
    provider = document.get("provider") or {}
    cloud = provider.get("type")
    for name, kind in kinds.items():
        _kind(name, kind or {}, cloud, head=name == head, findings=findings)
    _commands(document, findings)
    _start(document, findings)
    _open_ports(document, provider, findings)
    _images(document, kinds, head, findings)
    _storage(document, kinds, cloud, findings)


def _schema(document: Mapping[str, Any], findings: Findings) -> None:
    """Ray's own: private API, there is no `ray up --dry-run`."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            validate_config(prepare_config(copy.deepcopy(dict(document))))
        except jsonschema.ValidationError as error:
            where = ".".join(str(part) for part in error.absolute_path) or "(document)"
            findings.add(where, error.message, "what Ray's schema has (ray-schema.json)")
        except (ValueError, KeyError, AttributeError, TypeError, NotImplementedError) as error:
            # Ray raises as it comes where the document has not the shape that it takes for granted.
            findings.add("(document)", f"Ray refuses it: {error}", "a file that `ray up` accepts")


def _kind(
    name: str, kind: Mapping[str, Any], cloud: object, *, head: bool, findings: Findings
) -> None:
    path = f"available_node_types.{name}"
    if cloud in CLOUDS:
        config = kind.get("node_config") or {}
        find_unknown(config, known_fields(str(cloud)), f"{path}.node_config", findings)
        needed = "InstanceType" if cloud == "aws" else "machineType"
        if needed not in config:
            findings.add(f"{path}.node_config.{needed}", "missing", "a kind of machine")
    resources = kind.get("resources") or {}
    if head and resources.get("GPU", 0):
        findings.add(f"{path}.resources.GPU", resources["GPU"], "0: the head only coordinates")
    if head and resources.get("CPU") != 0:
        findings.add(
            f"{path}.resources.CPU",
            resources.get("CPU", "missing"),
            "0: missions run on the workers, the ledger needs no slot",
        )
    for key, value in (kind.get("labels") or {}).items():
        if not isinstance(value, str) or not _LABEL.match(value):
            findings.add(
                f"{path}.labels.{key}", value, "letters, digits, '-', '_', '.', 63 at most"
            )
        if str(key).startswith("ray.io/"):
            findings.add(f"{path}.labels.{key}", key, "a name outside ray.io/, which is Ray's")
    least, most = kind.get("min_workers", 0), kind.get("max_workers", 0)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        findings.add(f"{path}.min_workers", least, f"at most max_workers ({most})")


def _commands(document: Mapping[str, Any], findings: Findings) -> None:
    for name in COMMANDS:
        if name not in document:
            findings.add(
                name, "missing", "a list, also an empty one: Ray's defaults install a nightly build"
            )
    for name, at, command in _all_commands(document):
        where = f"{name}[{at}]"
        if "nightly" in command or "ray-wheels/latest" in command:
            findings.add(where, command, "released versions only")
        if _TOKEN_VALUE.search(command):
            findings.add(where, "a token in the file", "the token in a mounted file of mode 0600")


def _all_commands(document: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    for name in COMMANDS:
        for at, command in enumerate(document.get(name) or []):
            yield name, at, str(command)


def _start(document: Mapping[str, Any], findings: Findings) -> None:
    """`ray start` has no token authentication unless it is told so."""
    docker = document.get("docker") or {}
    everywhere = any(
        "RAY_AUTH_MODE=token" in str(option) for option in docker.get("run_options") or []
    )
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [
            (at, str(command))
            for at, command in enumerate(document.get(name) or [])
            if "ray start" in str(command)
        ]
        if not starts and name in document:
            findings.add(name, document[name], "a command with `ray start`")
        for at, command in starts:
            where = f"{name}[{at}]"
            before = command.split("ray start", 1)[0]
            if "RAY_AUTH_MODE=token" not in before and not (
                everywhere and "RAY_AUTH_MODE=" not in before
            ):
                findings.add(where, "no token authentication", "RAY_AUTH_MODE=token ray start ...")
            if name.startswith("head"):
                host = re.search(r"--dashboard-host[=\s]+(\S+)", command)
                if host is None or host[1] not in ("127.0.0.1", "localhost", "::1"):
                    findings.add(
                        where,
                        f"dashboard on {host[1] if host else 'what Ray chooses'}",
                        "--dashboard-host=127.0.0.1, reached with `ray dashboard`",
                    )
                if "--autoscaling-config" not in command:
                    findings.add(
                        where,
                        "no autoscaler",
                        "--autoscaling-config=~/ray_bootstrap_config.yaml",
                    )
    mounts = document.get("file_mounts") or {}
    if not any(str(target).endswith("auth_token") for target in mounts):
        findings.add(
            "file_mounts", "no token is mounted", '"~/.ray/auth_token": "~/.ray/auth_token"'
        )


def _open_ports(
    document: Mapping[str, Any], provider: Mapping[str, Any], findings: Findings
) -> None:
    group = provider.get("security_group") or {}
    for at, rule in enumerate(group.get("IpPermissions") or []):
        where = f"provider.security_group.IpPermissions[{at}]"
        ranges = [r.get("CidrIp") for r in rule.get("IpRanges") or []]
        ranges += [r.get("CidrIpv6") for r in rule.get("Ipv6Ranges") or []]
        if any(cidr in WORLD for cidr in ranges):
            ports = f"{rule.get('FromPort', 'all')}-{rule.get('ToPort', 'all')}"
            only_ssh = rule.get("FromPort") == rule.get("ToPort") == SSH
            findings.add(
                where,
                f"ports {ports} open to the world",
                "your own addresses (CidrIp: a.b.c.d/32); Ray's ports run code",
                level="warning" if only_ssh else "error",
            )
    if provider.get("type") == "aws" and not group.get("IpPermissions"):
        findings.add(
            "provider.security_group",
            "missing: Ray's default opens port 22 to the world",
            "IpPermissions with your own addresses",
            level="warning",
        )
    docker = document.get("docker") or {}
    for name in ("run_options", "head_run_options", "worker_run_options"):
        for at, option in enumerate(docker.get(name) or []):
            published = _PUBLISH.search(str(option))
            if published and not published[1].startswith(("127.0.0.1:", "[::1]:")):
                findings.add(
                    f"docker.{name}[{at}]",
                    f"publishes {published[1]} on every interface",
                    "127.0.0.1:PORT:PORT, or nothing",
                )
            if _TOKEN_VALUE.search(str(option)):
                findings.add(
                    f"docker.{name}[{at}]", "a token in the file", "the token in a mounted file"
                )


def _images(
    document: Mapping[str, Any], kinds: Mapping[str, Any], head: object, findings: Findings
) -> None:
    docker = document.get("docker") or {}
    if not docker:
        return
    workers_have_gpu = any(
        (kind or {}).get("resources", {}).get("GPU", 0)
        for name, kind in kinds.items()
        if name != head
    )
    if "image" in docker:
        gpu = workers_have_gpu and "worker_image" not in docker
        check_image(docker["image"], "docker.image", gpu=gpu, findings=findings)
    for name, gpu in (("head_image", False), ("worker_image", workers_have_gpu)):
        if name in docker:
            check_image(docker[name], f"docker.{name}", gpu=gpu, findings=findings)
    if not {"image", "head_image"} & set(docker) or not {"image", "worker_image"} & set(docker):
        findings.add("docker", "no image for every node", "image, or head_image and worker_image")


def _storage(
    document: Mapping[str, Any], kinds: Mapping[str, Any], cloud: object, findings: Findings
) -> None:
    """Where the ledger is copied to, as `launch` reads it from the environment."""
    from fleet.storage import STORAGE_VARIABLE, check_uri

    docker = document.get("docker") or {}
    options = [str(o) for n in ("run_options", "head_run_options") for o in docker.get(n) or []]
    commands = [command for _, _, command in _all_commands(document)]
    found = re.search(rf"{STORAGE_VARIABLE}=(\S+)", " ".join(options + commands))
    if found is None:
        findings.add(
            "docker.head_run_options",
            "no storage: a head that is lost takes the ledger with it",
            f"--env {STORAGE_VARIABLE}=s3://bucket/folder",
            level="warning",
        )
        return
    uri = found[1].strip("\"'")
    problem = check_uri(uri)
    if problem:
        findings.add("docker.head_run_options", uri, problem)
    if cloud == "aws" and uri.startswith("s3://"):
        for name, kind in kinds.items():
            if "IamInstanceProfile" not in ((kind or {}).get("node_config") or {}):
                findings.add(
                    f"available_node_types.{name}.node_config.IamInstanceProfile",
                    "missing: this node may not write to the bucket",
                    "{Name: a profile that may read and write it}",
                    level="warning",
                )
