"""Missions by folder: a folder with `mission.yaml` and `mission.py` is a mission.

Nothing is listed by hand; adding a mission touches its folder only. Imports lazily: the list of
missions is read from the files, a mission's code is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml

from missions.errors import SpecError, UnknownMissionError
from missions.protocol import Mission
from missions.spec import MissionSpec, load_spec
from missions.spec_errors import suggest
from missions.sweep_check import check_overrides, check_sweep

ROOT = Path(__file__).resolve().parent


def mission_files() -> dict[str, Path]:
    """Mission id -> its mission.yaml, in order of id."""
    found: dict[str, Path] = {}
    for path in sorted(ROOT.glob("*/mission.yaml")):
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        mission_id = str(document["id"])
        if mission_id in found:
            raise SpecError(f"{path}: id: {mission_id!r} is taken by {found[mission_id]}.")
        found[mission_id] = path
    return dict(sorted(found.items()))


def mission_file(mission_id: str) -> Path:
    """Path of a mission's file.

    Raises:
        UnknownMissionError: lists the known ids.
    """
    files = mission_files()
    if mission_id not in files:
        raise UnknownMissionError(f"Unknown mission {mission_id!r}.{suggest(mission_id, files)}")
    return files[mission_id]


def load_mission(mission_id: str) -> Mission:
    """Imports a mission's code and returns its one instance."""
    folder = mission_file(mission_id).parent
    module = importlib.import_module(f"missions.{folder.name}.mission")
    mission = module.MISSION
    if not isinstance(mission, Mission):
        raise SpecError(f"{module.__file__}: MISSION must be a missions.protocol.Mission.")
    return mission


def resolve(
    mission_id: str, *, profile: str = "laptop", overrides: tuple[str, ...] = ()
) -> MissionSpec:
    """The validated specification of a registered mission, its `params` included."""
    spec = load_spec(mission_file(mission_id), profile=profile, overrides=overrides)
    check_params(spec, load_mission(mission_id))
    return spec


def check_params(spec: MissionSpec, mission: Mission) -> None:
    """Validates `params`, what arms have otherwise, and the sweep against the mission's code.

    Raises:
        SpecError: names the field and the known ones.
    """
    from pydantic import ValidationError

    from missions.spec_errors import describe

    try:
        mission.params_model.model_validate(spec.params)
    except ValidationError as error:
        source = f"{mission_file(spec.id)}: params"
        raise SpecError(describe(error, mission.params_model, source)) from None
    source = str(mission_file(spec.id))
    check_strategy(spec, mission, source)
    check_overrides(spec, mission, source)
    check_sweep(spec, mission, source)


def check_strategy(spec: MissionSpec, mission: Mission, source: str) -> None:
    """Refuses a strategy that the mission's training loop does not have.

    Raises:
        SpecError: names the strategy and those that are allowed.
    """
    strategy = spec.resources.strategy
    if strategy not in mission.strategies:
        raise SpecError(
            f"{source}: resources.strategy: {strategy!r} is not what mission {spec.id} can do: its "
            f"training does not share one run among workers. Allowed: "
            f"{', '.join(mission.strategies)}."
        )
