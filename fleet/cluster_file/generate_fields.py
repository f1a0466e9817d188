"""Writes `known_fields/*.json` from the clouds' own descriptions of their requests.

Run by hand when a cloud's API grows (`pip install botocore google-api-python-client kubernetes`
first): `python -m fleet.cluster_file.generate_fields`. The lists are data in the repository, so
that `doctor --cluster` needs neither those packages nor a network.

A list maps each field to the fields below it; null ends a branch (a number, a word, a free map).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "known_fields"
Fields = dict[str, Any]


def aws() -> Fields:
    """`ec2.create_instances`, which Ray calls with node_config: the input of RunInstances."""
    session = importlib.import_module("botocore.session").get_session()
    model = session.get_service_model("ec2").operation_model("RunInstances")

    def below(shape: Any, path: tuple[str, ...]) -> Fields | None:
        if shape.type_name == "list":
            return below(shape.member, path)
        if shape.type_name != "structure" or shape.name in path:
            return None
        return {name: below(member, (*path, shape.name)) for name, member in shape.members.items()}

    return below(model.input_shape, ()) or {}


def gcp() -> Fields:
    """`compute.instances.insert`: the Instance resource."""
    package = Path(importlib.import_module("googleapiclient").__file__ or "").parent
    document = json.loads(
        (package / "discovery_cache/documents/compute.v1.json").read_text(encoding="utf-8")
    )["schemas"]

    def below(schema: Mapping[str, Any], path: tuple[str, ...]) -> Fields | None:
        schema = schema.get("items", schema)
        name = schema.get("$ref")
        if name is not None:
            if name in path:
                return None
            return below(document[name], (*path, name))
        if "properties" not in schema:
            return None
        return {key: below(value, path) for key, value in schema["properties"].items()}

    return below({"$ref": "Instance"}, ()) or {}


def kubernetes() -> Fields:
    """A pod template, for the head and worker groups of a RayCluster."""
    models = importlib.import_module("kubernetes.client.models")

    def below(kind: str, path: tuple[str, ...]) -> Fields | None:
        kind = kind.removeprefix("List[").removesuffix("]")
        model = getattr(models, kind, None)
        if model is None or kind in path or not hasattr(model, "openapi_types"):
            return None
        return {
            model.attribute_map[name]: below(inner, (*path, kind))
            for name, inner in model.openapi_types.items()
        }

    return below("V1PodTemplateSpec", ()) or {}


def main() -> None:
    """Writes all lists."""
    FOLDER.mkdir(exist_ok=True)
    for make in (aws, gcp, kubernetes):
        text = json.dumps(make(), sort_keys=True, separators=(",", ":"))
        (FOLDER / f"{make.__name__}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
