"""Which missions there are and how a launch's arguments turn into specifications."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fleet.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from missions.spec import MissionSpec

_MISSIONS = Path(__file__).resolve().parent.parent / "missions"


def mission_facts() -> list[dict[str, Any]]:
    """Id, title, hypothesis, arms and file of every mission, read from the files alone."""
    facts = []
    for path in sorted(_MISSIONS.glob("*/mission.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        facts.append(
            {
                "id": str(document["id"]),
                "title": str(document["title"]),
                "hypothesis": " ".join(str(document["hypothesis"]).split()),
                "claim": " ".join(str(document["claim"]).split()),
                "arms": {name: arm["role"] for name, arm in document["arms"].items()},
                "seeds": len(document["seeds"]),
                "file": str(path),
            }
        )
    return sorted(facts, key=lambda fact: fact["id"])


def choose(wanted: Sequence[str]) -> tuple[str, ...]:
    """The mission ids to launch; all where none is named.

    Raises:
        NotFoundError: an id that is not there, with the known ones.
    """
    known = [fact["id"] for fact in mission_facts()]
    if not known:
        raise NotFoundError(f"No mission below {_MISSIONS}.")
    for mission in wanted:
        if mission not in known:
            from missions.spec_errors import suggest

            raise NotFoundError(
                f"Unknown mission {mission!r}.{suggest(mission, known)}",
                go_on="python fleet.py missions",
            )
    return tuple(wanted) or tuple(known)


def split_overrides(
    overrides: Sequence[str], missions: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """`a.b=c` goes to every mission, `A:a.b=c` to mission A.

    Raises:
        UsageError: an override for a mission that is not launched.
    """
    found: dict[str, list[str]] = {mission: [] for mission in missions}
    for item in overrides:
        name, _, value = item.partition("=")
        scope, separator, path = name.rpartition(":")
        if not separator:
            for mission in missions:
                found[mission].append(item)
        elif scope in found:
            found[scope].append(f"{path}={value}" if "=" in item else path)
        else:
            from missions.spec_errors import suggest

            raise UsageError(
                f"--set {item!r}: mission {scope!r} is not launched.{suggest(scope, missions)}"
            )
    return {mission: tuple(items) for mission, items in found.items()}


def resolve_all(
    missions: Sequence[str], *, profile: str, overrides: Sequence[str], catalog: str
) -> list[MissionSpec]:
    """The validated specification of every mission."""
    source = importlib.import_module(catalog)
    scoped = split_overrides(overrides, missions)
    return [
        source.resolve(mission, profile=profile, overrides=scoped[mission]) for mission in missions
    ]


def validate_file(path: Path, profile: str) -> MissionSpec:
    """Checks a mission file; its params too, where the mission's code is known."""
    from missions.registry import check_params, load_mission, mission_files
    from missions.spec import load_spec

    if not path.is_file():
        what = (
            "is a folder: name a mission file in it" if path.is_dir() else "there is no such file"
        )
        raise NotFoundError(f"{path}: {what}.")
    spec = load_spec(path, profile=profile)
    if spec.id in mission_files():
        check_params(spec, load_mission(spec.id))
    return spec
