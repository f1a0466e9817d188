"""Rules for a RayCluster of KubeRay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.cluster_file.fields import RAY_CLUSTER, find_unknown
from fleet.cluster_file.finding import Findings
from fleet.cluster_file.images import RAY, check_image

LOOPBACK = ("127.0.0.1", "localhost")


def check_ray_cluster(document: Mapping[str, Any], findings: Findings) -> None:
    """Notes everything that is wrong."""
    find_unknown(document, RAY_CLUSTER, "", findings)
    if document.get("apiVersion") != "ray.io/v1":
        findings.add("apiVersion", document.get("apiVersion"), "ray.io/v1")
    if document.get("kind") != "RayCluster":
        findings.add("kind", document.get("kind"), "RayCluster")
    spec = document.get("spec") or {}
    if str(spec.get("rayVersion")) != RAY:
        findings.add("spec.rayVersion", spec.get("rayVersion", "missing"), RAY)
    if (spec.get("authOptions") or {}).get("mode") != "token":
        findings.add("spec.authOptions.mode", "no token authentication", "token")
    head = spec.get("headGroupSpec") or {}
    _head(head, findings)
    groups = spec.get("workerGroupSpecs") or []
    if not groups:
        findings.add("spec.workerGroupSpecs", "missing", "at least one group")
    for at, group in enumerate(groups):
        _workers(group or {}, f"spec.workerGroupSpecs[{at}]", findings)


def _head(head: Mapping[str, Any], findings: Findings) -> None:
    path = "spec.headGroupSpec"
    service = head.get("serviceType", "ClusterIP")
    if service != "ClusterIP":
        findings.add(f"{path}.serviceType", service, "ClusterIP: Ray's ports run code")
    if head.get("enableIngress"):
        findings.add(f"{path}.enableIngress", True, "false; `kubectl port-forward` instead")
    start = head.get("rayStartParams") or {}
    if start.get("dashboard-host") not in LOOPBACK:
        findings.add(
            f"{path}.rayStartParams.dashboard-host",
            start.get("dashboard-host", "missing: KubeRay's default is 0.0.0.0"),
            "127.0.0.1, reached with `kubectl port-forward`",
        )
    if str(start.get("num-cpus")) != "0":
        findings.add(
            f"{path}.rayStartParams.num-cpus",
            start.get("num-cpus", "missing"),
            '"0": missions run on the workers, the ledger needs no slot',
        )
    _pod(head, path, findings, head=True)


def _workers(group: Mapping[str, Any], path: str, findings: Findings) -> None:
    low, most = group.get("minReplicas", 0), group.get("maxReplicas")
    if not isinstance(most, int):
        findings.add(f"{path}.maxReplicas", most if most is not None else "missing", "a number")
    elif not 0 <= low <= group.get("replicas", low) <= most:
        findings.add(
            f"{path}.replicas",
            f"{low} <= {group.get('replicas', low)} <= {most} does not hold",
            "minReplicas <= replicas <= maxReplicas",
        )
    if low == 0:
        findings.add(
            f"{path}.minReplicas",
            0,
            "1 or more: what KubeRay may still start is not told to Ray, so a launch's preflight "
            "sees only pods that are up",
            level="warning",
        )
    _pod(group, path, findings, head=False)


def _pod(group: Mapping[str, Any], path: str, findings: Findings, *, head: bool) -> None:
    spec = (group.get("template") or {}).get("spec") or {}
    if spec.get("hostNetwork"):
        findings.add(f"{path}.template.spec.hostNetwork", True, "false: Ray's ports run code")
    containers = spec.get("containers") or []
    if not containers:
        findings.add(f"{path}.template.spec.containers", "missing", "the Ray container first")
    for at, container in enumerate(containers[:1]):
        where = f"{path}.template.spec.containers[{at}]"
        limits = (container.get("resources") or {}).get("limits") or {}
        gpus = int(limits.get("nvidia.com/gpu", 0))
        if head and gpus:
            findings.add(f"{where}.resources.limits", f"{gpus} GPU", "none: the head coordinates")
        check_image(container.get("image"), f"{where}.image", gpu=gpus > 0, findings=findings)
        for name in ("cpu", "memory"):
            if name not in limits:
                findings.add(
                    f"{where}.resources.limits.{name}", "missing", "an amount: Ray takes it as its"
                )
        for port in container.get("ports") or []:
            if "hostPort" in port:
                findings.add(f"{where}.ports", f"hostPort {port['hostPort']}", "containerPort only")
        for variable in container.get("env") or []:
            if variable.get("name") == "RAY_AUTH_TOKEN" and "value" in variable:
                findings.add(f"{where}.env", "a token in the file", "valueFrom.secretKeyRef")
