"""Fields that a cloud knows, and the ones in a file that it does not.

Ray passes `node_config` to the cloud as it stands: a misspelt field there is refused by AWS after
minutes, and ignored by others.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleet.cluster_file.finding import Findings

FOLDER = Path(__file__).parent / "known_fields"
OF_RAY: Mapping[str, Mapping[str, Any]] = {
    # Ray picks one of them for each instance.
    "aws": {"SubnetIds": None},
    # A TPU node's network.
    "gcp": {"networkConfig": None, "acceleratorType": None, "runtimeVersion": None},
}
"""Keys of node_config that Ray itself reads and takes out."""

_GROUP: Mapping[str, Any] = {
    "rayStartParams": None,
    "template": "kubernetes",
    "labels": None,
    "resources": None,
}
RAY_CLUSTER: Mapping[str, Any] = {
    "apiVersion": None,
    "kind": None,
    "metadata": None,
    "spec": {
        "authOptions": {"mode": None, "secretName": None, "enableK8sTokenAuth": None},
        "autoscalerOptions": {
            "resources": None,
            "image": None,
            "imagePullPolicy": None,
            "securityContext": None,
            "idleTimeoutSeconds": None,
            "upscalingMode": None,
            "version": None,
            "env": None,
            "envFrom": None,
            "volumeMounts": None,
            "command": None,
            "args": None,
        },
        "enableInTreeAutoscaling": None,
        "gcsFaultToleranceOptions": None,
        "headGroupSpec": {
            **_GROUP,
            "serviceType": None,
            "headService": None,
            "enableIngress": None,
        },
        "headServiceAnnotations": None,
        "managedBy": None,
        "rayVersion": None,
        "suspend": None,
        "upgradeStrategy": None,
        "workerGroupSpecs": {
            **_GROUP,
            "groupName": None,
            "replicas": None,
            "minReplicas": None,
            "maxReplicas": None,
            "idleTimeoutSeconds": None,
            "numOfHosts": None,
            "suspend": None,
            "scaleStrategy": None,
        },
    },
}
"""Fields of a RayCluster (ray.io/v1 of KubeRay 1.6)."""


@functools.cache
def known_fields(cloud: str) -> Mapping[str, Any]:
    """Field -> fields below it, of one cloud's request."""
    fields: dict[str, Any] = json.loads((FOLDER / f"{cloud}.json").read_text(encoding="utf-8"))
    return fields | dict(OF_RAY.get(cloud, {}))


def find_unknown(value: Any, known: Any, path: str, findings: Findings) -> None:
    """Notes every key of `value` that is not a known field, however deep."""
    if isinstance(known, str):
        known = known_fields(known)
    if known is None:
        return
    if isinstance(value, list):
        for at, item in enumerate(value):
            find_unknown(item, known, f"{path}[{at}]", findings)
    elif isinstance(value, Mapping):
        for key, below in value.items():
            where = f"{path}.{key}" if path else str(key)
            if key in known:
                find_unknown(below, known[key], where, findings)
            else:
                findings.add(where, f"unknown field {str(key)!r}", _nearest(str(key), known))


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    if close:
        return f"{close[0]} (or {', '.join(close[1:])})" if close[1:] else close[0]
    names = sorted(known)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
