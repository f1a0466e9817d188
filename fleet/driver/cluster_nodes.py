"""The cluster as Ray reports it: nodes, what their autoscaler may add, who holds what.

Observes only; what follows from it is decided in `fleet.policies`. Call it while Ray is up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fleet.policies import Holder, Node

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's file on the head."""
_GROUP = "ray.io/node-group"
_OF_RAY = frozenset({"CPU", "GPU", "TPU", "memory", "object_store_memory"})


def live_nodes() -> tuple[Node, ...]:
    """The nodes that are up, by name."""
    import ray

    found = [
        node_of(node_name(node["NodeID"], node["NodeManagerAddress"]), node["Resources"], node)
        for node in ray.nodes()
        if node["Alive"]
    ]
    return tuple(sorted(found, key=lambda node: node.name))


def node_name(node_id: str, address: str) -> str:
    """How a node is called in messages, in the ledger and among the policies."""
    return f"{address}/{node_id[:8]}"


def node_of(name: str, amounts: Mapping[str, float], facts: Mapping[str, Any]) -> Node:
    """A node from Ray's own words."""
    custom = {
        key: float(amount)
        for key, amount in amounts.items()
        if key not in _OF_RAY and not key.startswith(("node:", "accelerator_type:"))
    }
    return Node(
        name=name,
        cpus=float(amounts.get("CPU", 0)),
        gpus=float(amounts.get("GPU", 0)),
        memory_mib=float(amounts.get("memory", 0)) / 2**20,
        custom=custom,
        labels=facts.get("Labels", {}),
    )


def possible_nodes() -> tuple[Node, ...]:
    """The nodes that are up and those that the cluster's autoscaler may add."""
    up = live_nodes()
    return up + tuple(_of_file(up))


def _of_file(up: tuple[Node, ...]) -> list[Node]:
    """From the file that `ray up` left on this head."""
    path = BOOTSTRAP.expanduser()
    if not path.is_file():
        return []
    return nodes_to_come(yaml.safe_load(path.read_text(encoding="utf-8")), up)


def nodes_to_come(document: Mapping[str, Any], up: tuple[Node, ...] = ()) -> list[Node]:
    """The worker nodes that a cluster file allows beside those that are up."""
    found: list[Node] = []
    kinds = document.get("available_node_types", {})
    for name, kind in kinds.items():
        if name == document.get("head_node_type"):
            continue
        most = int(kind.get("max_workers", document.get("max_workers", 0)))
        labels = {str(key): str(value) for key, value in (kind.get("labels") or {}).items()}
        found += _still_to_come(name, most, kind.get("resources") or {}, labels, up)
    there = sum(node.labels.get(_GROUP) in kinds for node in up)
    # The whole cluster has a limit, too; which kinds are left out by it is for Ray to choose.
    return found[: max(0, int(document.get("max_workers", len(found))) - there)]


def _still_to_come(
    kind: str,
    most: int,
    amounts: Mapping[str, float],
    labels: Mapping[str, str],
    up: tuple[Node, ...],
) -> list[Node]:
    """Nodes of one kind that are not up yet, a thousand at most."""
    there = sum(node.labels.get(_GROUP) == kind for node in up)
    facts = {"Labels": labels}
    return [
        node_of(f"{kind} (to be started)", amounts, facts)
        for _ in range(min(1000, max(0, most - there)))
    ]


def free_nodes() -> tuple[Node, ...]:
    """What Ray has not given to anybody, node by node."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            name = node_name(node["NodeID"], node["NodeManagerAddress"])
            amounts = dict.fromkeys(node["Resources"], 0.0) | free.get(node["NodeID"], {})
            amounts = {key: amount for key, amount in amounts.items() if key in node["Resources"]}
            found.append(node_of(name, amounts, node))
    return tuple(sorted(found, key=lambda node: node.name))


def foreign_holders(namespace: str) -> list[Holder]:
    """Placement groups and actors of other jobs that hold resources."""
    import ray
    from ray.util import placement_group_table, state

    names = {
        node["NodeID"]: node_name(node["NodeID"], node["NodeManagerAddress"])
        for node in ray.nodes()
    }
    ours = ray.get_runtime_context().get_job_id()
    found = []
    for group in placement_group_table().values():
        if group["state"] != "CREATED":
            continue
        for bundle, amounts in group["bundles"].items():
            at = names.get(group["bundles_to_node_id"].get(bundle, ""), "")
            who = f"placement group {group['name'] or group['placement_group_id'][:8]}"
            found.append(Holder(who=who, what=_words(amounts), node=at))
    for actor in state.list_actors(
        filters=[("state", "=", "ALIVE")], detail=True, limit=1000, raise_on_missing_output=False
    ):
        asked = actor.required_resources or {}
        if actor.job_id == ours or actor.ray_namespace == namespace or not asked:
            continue
        who = f"actor {actor.name or actor.class_name} of job {actor.job_id}"
        found.append(Holder(who=who, what=_words(asked), node=names.get(actor.node_id or "", "")))
    return found


def _words(amounts: Mapping[str, float]) -> str:
    parts = []
    for name, amount in sorted(amounts.items()):
        if "group" not in name:
            parts.append(f"{amount / 2**20:,.0f} MiB" if name == "memory" else f"{amount:g} {name}")
    return ", ".join(parts)
