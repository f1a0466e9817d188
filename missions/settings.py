"""Puts searched settings into a specification, and reads the ones that it has. Pure.

A path is `params.a.b` (the mission's settings as one arm has them, kept as that arm's `override`)
or `arm.a` (the arm's own `params`). See `missions.sweep_spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from missions.spec import MissionSpec, merge

Settings = Mapping[str, Any]


def with_settings(spec: MissionSpec, arm: str, settings: Settings) -> MissionSpec:
    """The specification with settings of one arm; the other arms stay as they are."""
    document = spec.model_dump(mode="json")
    own = document["arms"][arm]
    for path, value in settings.items():
        root, _, rest = path.partition(".")
        field = "params" if root == "arm" else "override"
        own[field] = merge(own[field], nested(rest, value))
    return MissionSpec.model_validate(document)


def with_rung(spec: MissionSpec, rung: Settings) -> MissionSpec:
    """The specification at another fidelity, for all arms."""
    document = spec.model_dump(mode="json")
    for path, value in rung.items():
        document = merge(document, nested(path, value))
    return MissionSpec.model_validate(document)


def nested(path: str, value: Any) -> dict[str, Any]:
    """`a.b`, v -> {a: {b: v}}."""
    found: Any = value
    for key in reversed(path.split(".")):
        found = {key: found}
    return dict(found)


def get(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path.

    Raises:
        KeyError: names the first part that is not there.
    """
    found: Any = document
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            raise KeyError(key)
        found = found[key]
    return found
